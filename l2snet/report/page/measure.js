"use strict";
/* What the program computes, for other thresholds: the mask by the method's rule, its lesions, their numbers.
   `found` holds, of every voxel that could be in the mask and in the order of the image: index, suv, peak, probability
   and, with a cue, on_cue. See l2snet/fuse.py and l2snet/measure. */

/* Whether each voxel is in the mask: its probability above `on` where the cue is, above `off` elsewhere; where the rule
   is cued, of a component that lies on the cue with less than `least_overlap` of it only that part. */
L2S.fuse = (found, rule, { suv_floor }, size) => {
  const off = Math.fround(rule.off), on = rule.on === null ? off : Math.fround(rule.on), floor = Math.fround(suv_floor);
  const inside = Uint8Array.from(found.probability, (p, i) => p > (found.on_cue?.[i] ? on : off));
  if (rule.cued) for (const part of L2S.components(found.index, inside, size)) {
    const beside = part.filter(i => !found.on_cue[i]), overlap = part.length - beside.length;
    if (!(overlap > 0 && overlap >= rule.least_overlap * part.length)) beside.forEach(i => { inside[i] = 0; });
  }
  return inside.map((marked, i) => marked && found.suv[i] >= floor ? 1 : 0);
};

/* The voxels of each 18-connected component, as positions in `index`; the largest first. */
L2S.components = (index, inside, [nx, ny]) => {
  const parent = Uint32Array.from(index, (_, i) => i);
  const root = i => { while (parent[i] !== i) i = parent[i] = parent[parent[i]]; return i; };
  for (const [dz, dy, dx] of [[0, 0, -1], [0, -1, -1], [0, -1, 0], [0, -1, 1], [-1, -1, 0], [-1, 0, -1], [-1, 0, 0], [-1, 0, 1], [-1, 1, 0]]) {
    const step = (dz * ny + dy) * nx + dx;
    let j = 0;
    for (let i = 0; i < index.length; i++) {
      if (!inside[i]) continue;
      const wanted = index[i] + step;
      while (index[j] < wanted) j++;
      if (index[j] !== wanted || !inside[j]) continue;
      const x = index[i] % nx + dx, y = Math.floor(index[i] / nx) % ny + dy;
      if (x < 0 || x >= nx || y < 0 || y >= ny) continue;
      const a = root(i), b = root(j);
      if (a < b) parent[b] = a; else parent[a] = b;
    }
  }
  const parts = new Map();
  for (let i = 0; i < index.length; i++) {
    if (!inside[i]) continue;
    const name = root(i);
    if (!parts.has(name)) parts.set(name, []);
    parts.get(name).push(i);
  }
  return [...parts.values()].sort((a, b) => b.length - a.length || a[0] - b[0]);
};

/* The corners of the convex hull of points [x, y] (Andrew's monotone chain). */
L2S.hull = points => {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = list => {
    const chain = [];
    for (const p of list) {
      while (chain.length > 1) {
        const [a, b] = chain.slice(-2);
        if ((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0) break;
        chain.pop();
      }
      chain.push(p);
    }
    return chain.slice(0, -1);
  };
  return [...half(sorted), ...half(sorted.reverse())];
};

/* The largest distance between two points of voxels [x, y, z], each of them a box. */
L2S.diameter = (voxels, spacing) => {
  const planes = new Map();
  for (const [x, y, z] of voxels) {
    if (!planes.has(z)) planes.set(z, new Map());
    const ends = planes.get(z).get(y) ?? [x, x];
    planes.get(z).set(y, [Math.min(ends[0], x), Math.max(ends[1], x)]);
  }
  const points = [];
  for (const [z, lines] of planes) {
    const corners = [...lines].flatMap(([y, [low, high]]) => [[low - 0.5, y - 0.5], [low - 0.5, y + 0.5], [high + 0.5, y - 0.5], [high + 0.5, y + 0.5]]);
    for (const [x, y] of L2S.hull(corners)) for (const side of [-0.5, 0.5]) points.push([x * spacing[0], y * spacing[1], (z + side) * spacing[2]]);
  }
  /* From the outside in: two points are no farther apart than both are from the middle. */
  const middle = [0, 1, 2].map(axis => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
  const far = points.map(point => [apart(point, middle), point]).sort((a, b) => b[0] - a[0]);
  let longest = 0;
  for (let i = 0; i < far.length && 2 * far[i][0] > longest; i++)
    for (let j = i + 1; j < far.length && far[i][0] + far[j][0] > longest; j++) longest = Math.max(longest, apart(far[i][1], far[j][1]));
  return longest;
};

L2S.world = (affine, [x, y, z]) => affine.slice(0, 3).map(row => row[0] * x + row[1] * y + row[2] * z + row[3]);

/* Rows and totals as the program's tables have them, and the voxels of each lesion. */
L2S.measure = (found, told, rule) => {
  const [nx, ny] = told.size, spacing = [0, 1, 2].map(k => Math.hypot(...told.affine.slice(0, 3).map(row => row[k])));
  const lesions = L2S.components(found.index, L2S.fuse(found, rule, told.rules, told.size), told.size)
    .filter(part => part.length * told.voxel_ml >= told.rules.smallest_ml);
  const rows = lesions.map((part, k) => {
    const voxels = part.map(i => [found.index[i] % nx, Math.floor(found.index[i] / nx) % ny, Math.floor(found.index[i] / (nx * ny))]);
    const mean = array => part.reduce((sum, i) => sum + array[i], 0) / part.length;
    const hottest = part.reduce((best, i, at) => found.suv[i] > found.suv[part[best]] ? at : best, 0);
    const centre = L2S.world(told.affine, [0, 1, 2].map(axis => voxels.reduce((sum, voxel) => sum + voxel[axis], 0) / part.length));
    const volume_ml = part.length * told.voxel_ml, suv_mean = mean(found.suv);
    return {
      number: k + 1, volume_ml, suv_max: found.suv[part[hottest]], suv_mean,
      suv_peak: part.reduce((highest, i) => Math.max(highest, found.peak[i]), -Infinity), tlg: suv_mean * volume_ml,
      centroid_left_mm: -centre[0], centroid_posterior_mm: -centre[1], centroid_superior_mm: centre[2],
      longest_diameter_mm: L2S.diameter(voxels, spacing), probability: mean(found.probability),
      at: L2S.world(told.affine, voxels[hottest]),
    };
  });
  const sum = key => rows.reduce((total, row) => total + row[key], 0);
  let dmax_mm = rows.length ? 0 : null;
  const centres = rows.map(row => [row.centroid_left_mm, row.centroid_posterior_mm, row.centroid_superior_mm]);
  centres.forEach((a, i) => centres.slice(0, i).forEach(b => { dmax_mm = Math.max(dmax_mm, Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2])); }));
  const totals = {
    lesions: rows.length, tmtv_ml: sum("volume_ml"), tlg: sum("tlg"),
    suv_max: rows.length ? Math.max(...rows.map(row => row.suv_max)) : null, dmax_mm,
    sdmax_per_m: told.surface_m2 && dmax_mm !== null ? dmax_mm / 1000 / told.surface_m2 : null,
  };
  return { rows, totals, lesions };
};
