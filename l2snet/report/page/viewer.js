"use strict";
/* The viewer: unpacks the images, hands them to NiiVue, and follows lesion, window and threshold. */
(() => {
  const data = L2S.data("l2snet-data"), told = data.viewer, text = data.text.viewer;
  const get = id => document.getElementById(id), note = get("stage-note");
  const CT_WINDOWS = { soft: [-160, 240], lung: [-1350, 150], bone: [-450, 1050] };
  /* Name, colours and the least that is shown of each map. */
  const MAPS = [["probability", "viridis", 0.05], ["cue", "cool", 0.1]];
  const UINT8 = 2, FLOAT32 = 16;
  let slices, solid, layers = {}, found = null, wanted = null;

  const unpack = async name => {
    const bytes = Uint8Array.from(atob(get(`packed-${name}`).textContent), c => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  };
  const has = name => get(`packed-${name}`) !== null;

  const image = (name, array, type, colours, range, opacity, size = told.size, affine = told.affine) => {
    const spacing = [0, 1, 2].map(k => Math.hypot(...affine.slice(0, 3).map(row => row[k])));
    const file = niivue.NVImage.createNiftiArray(size, spacing, affine.flat(), type, array);
    return niivue.NVImage.new(file.buffer, `${name}.nii`, colours, opacity, null, range[0], range[1]);
  };
  const fromLevels = (codes, levels) => Float32Array.from(codes, code => levels[code]);

  /* One value a colour, since NiiVue's label maps are short: lesions of one colour are told apart by place. */
  const colourOf = number => number ? (number - 1) % data.colours.length + 1 : 0;
  const lesionColours = () => {
    const parts = data.colours.map(colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16)));
    const channel = k => [0, ...parts.map(part => part[k])];
    return { R: channel(0), G: channel(1), B: channel(2), A: [0, ...parts.map(() => 255)], I: [0, ...parts.map((_, i) => i + 1)],
      labels: ["", ...parts.map(() => "")] };
  };

  /* Every second voxel along each axis, the highest of eight: fine enough for 3D, and quick. */
  const [nx, ny, nz] = told.size, [hx, hy, hz] = told.size.map(n => Math.ceil(n / 2));
  const coarser = array => {
    const out = new array.constructor(hx * hy * hz);
    for (let z = 0, i = 0; z < nz; z++) for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++, i++) {
      const at = ((z >> 1) * hy + (y >> 1)) * hx + (x >> 1);
      if (array[i] > out[at]) out[at] = array[i];
    }
    return out;
  };
  const coarseAffine = told.affine.map((row, r) => r === 3 ? row : [...row.slice(0, 3).map(v => 2 * v), row[3] + (row[0] + row[1] + row[2]) / 2]);

  const unpackCandidates = async () => {
    found = { index: new Uint32Array(await unpack("index")) };
    for (let i = 1; i < found.index.length; i++) found.index[i] += found.index[i - 1];
    for (const name of ["suv", "peak", "probability"]) found[name] = new Float32Array(await unpack(name));
    if (has("on_cue")) found.on_cue = new Uint8Array(await unpack("on_cue"));
    L2S.found = found;
  };

  const read = async () => {
    const highest = Number(get("pet-max").value), petOpacity = has("ct") ? Number(get("pet-opacity").value) : 1;
    if (has("ct")) layers.ct = await image("ct", fromLevels(new Uint8Array(await unpack("ct")), told.hu_levels), FLOAT32, "gray", CT_WINDOWS.soft, 1);
    const pet = fromLevels(new Uint8Array(await unpack("pet")), told.suv_levels);
    layers.pet = await image("pet", pet, FLOAT32, "hot", [0, highest], petOpacity);
    const lesions = Uint8Array.from(new Uint32Array(await unpack("labels")), colourOf);
    layers.mask = await image("mask", lesions, UINT8, "red", [0, data.colours.length], Number(get("mask-opacity").value));
    if (told.rule) await unpackCandidates();
    for (const [name, colours, least] of MAPS) {
      if (!has(`map_${name}`)) continue;
      const values = Float32Array.from(new Uint8Array(await unpack(`map_${name}`)), v => v / told.map_levels);
      layers[name] = await image(name, values, FLOAT32, colours, [least, 1], 0);
    }
    const half = [[hx, hy, hz], coarseAffine];
    layers.solidPet = await image("pet3d", coarser(pet), FLOAT32, "cloud", [0, highest], 1, ...half);
    layers.solidMask = await image("mask3d", coarser(lesions), UINT8, "red", [0, data.colours.length], 1, ...half);
    for (const mask of [layers.mask, layers.solidMask]) mask.setColormapLabel(lesionColours());
  };

  const attach = async (id, type) => {
    const made = new niivue.Niivue({ logLevel: "error", isRadiologicalConvention: true, dragAndDropEnabled: false, sliceType: type,
      crosshairColor: [0.35, 0.7, 1, 0.6], show3Dcrosshair: true, crosshairWidth: 0.4, sagittalNoseLeft: true, multiplanarShowRender: 0, multiplanarLayout: 2, multiplanarPadPixels: 4 });
    await made.attachToCanvas(get(id));
    /* PET in 3D: black where it is hot, see-through where it is not. */
    made.addColormap("cloud", { R: [255, 120, 0], G: [255, 120, 0], B: [255, 120, 0], A: [0, 18, 150], I: [0, 90, 255] });
    made.addColormap("inverse", { R: [255, 0], G: [255, 0], B: [255, 0], A: [255, 255], I: [0, 255] });
    return made;
  };
  /* All but the last without drawing: each drawing goes over every voxel. */
  const fill = (viewer, volumes) => {
    viewer.volumes.push(...volumes.slice(0, -1));
    viewer.addVolume(volumes.at(-1));
  };

  const start = async () => {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error(text.no_webgl);
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack("niivue"));
    document.head.append(script);
    slices = await attach("canvas", niivue.SLICE_TYPE.MULTIPLANAR);
    solid = await attach("canvas-3d", niivue.SLICE_TYPE.RENDER);
    solid.opts.backColor = [1, 1, 1, 1];
    await read();
    fill(slices, ["ct", "pet", "mask", "probability", "cue"].filter(name => layers[name]).map(name => layers[name]));
    fill(solid, [layers.solidPet, layers.solidMask]);
    solid.setRenderAzimuthElevation(180, 0);
    slices.broadcastTo([solid], { "3d": false, "2d": true });
    paint();
    note.remove();
    if (wanted) jump(wanted);
    get("viewer").dataset.ready = "yes";
  };

  const paint = () => {
    const shown = get("image")?.value ?? "pet", inverse = get("colours").value === "inverse";
    if (layers.ct) {
      layers.ct.opacity = shown === "pet" ? 0 : 1;
      [layers.ct.cal_min, layers.ct.cal_max] = CT_WINDOWS[get("ct-window").value];
      layers.pet.opacity = shown === "ct" ? 0 : shown === "pet" ? 1 : Number(get("pet-opacity").value);
    }
    layers.pet.colormap = get("colours").value;
    /* Over a CT, what is cold is left out. */
    layers.pet.cal_min = shown === "fused" ? 0.1 * Number(get("pet-max").value) : 0;
    layers.pet.cal_max = layers.solidPet.cal_max = Number(get("pet-max").value);
    get("pet-max").nextElementSibling.textContent = L2S.short(get("pet-max").value);
    layers.mask.opacity = Number(get("mask-opacity").value);
    for (const name of ["probability", "cue"]) if (layers[name]) layers[name].opacity = get(`show-${name}`)?.checked ? 0.7 : 0;
    slices.opts.backColor = inverse && shown === "pet" ? [1, 1, 1, 1] : [0, 0, 0, 1];
    slices.updateGLVolume();
    solid.updateGLVolume();
  };

  const setLayout = () => {
    const chosen = get("layout").value;
    get("stage").dataset.layout = chosen;
    if (chosen !== "render") slices.setSliceType(niivue.SLICE_TYPE[chosen === "all" ? "MULTIPLANAR" : chosen.toUpperCase()]);
  };

  const jump = row => {
    for (const viewer of [slices, solid]) {
      viewer.scene.crosshairPos = viewer.mm2frac(row.at);
      viewer.drawScene();
    }
    get("viewer").dataset.at = row.at.map(mm => mm.toFixed(2)).join(" ");
  };
  document.addEventListener("l2snet-lesion", event => {
    wanted = event.detail;
    if (get("viewer").dataset.ready) jump(wanted);
  });

  /* The rule with the sliders' thresholds; where they were not moved it is the program's, and so are the numbers. */
  const rule = () => {
    const moved = { ...told.rule };
    document.querySelectorAll(".threshold").forEach(slider => { moved[slider.dataset.key] = Number(slider.value); });
    return moved;
  };
  /* Other thresholds by the names that the manifest and the CSV have for them, and what the page says of them. */
  const toldOf = now => {
    const keys = told.rule.on === null ? ["off"] : ["off", "on"], name = key => told.rule.on === null ? "lesion" : key;
    const column = { off: "threshold_off_cue", on: "threshold_on_cue", lesion: "threshold_lesion" };
    const said = rule => keys.map(key => `${text[name(key)]} ${rule[key].toFixed(2)}`).join(", ");
    return {
      thresholds: Object.fromEntries(keys.map(key => [column[name(key)], now[key]])),
      notice: text.moved.replace("{now}", said(now)).replace("{before}", said(told.rule)),
    };
  };
  /* Many lesions take a moment: they are measured when the slider rests. */
  let timer = 0;
  const threshold = () => {
    document.querySelectorAll(".threshold").forEach(slider => { slider.nextElementSibling.textContent = Number(slider.value).toFixed(2); });
    get("lesions").ariaBusy = "true";
    clearTimeout(timer);
    timer = setTimeout(remeasure, 120);
  };
  const remeasure = () => {
    const now = rule(), same = now.off === told.rule.off && now.on === told.rule.on;
    const measured = L2S.measure(found, told, now);
    const other = same ? null : toldOf(now);
    L2S.show(same ? data.rows : measured.rows, same ? data.totals : measured.totals, other);
    get("reset").disabled = same;
    get("threshold-note").textContent = same ? text.as_made : other.notice;
    layers.mask.img.fill(0);
    measured.lesions.forEach((part, k) => part.forEach(i => { layers.mask.img[found.index[i]] = colourOf(k + 1); }));
    layers.solidMask.img.set(coarser(layers.mask.img));
    slices.updateGLVolume();
    solid.updateGLVolume();
    get("lesions").ariaBusy = "false";
  };

  const listen = () => {
    for (const id of ["image", "ct-window", "colours", "pet-max", "pet-opacity", "mask-opacity", "show-probability", "show-cue"]) get(id)?.addEventListener("input", paint);
    get("layout").addEventListener("input", setLayout);
    setLayout();
    document.querySelectorAll(".threshold").forEach(slider => {
      slider.addEventListener("input", threshold);
      slider.disabled = false;
    });
    get("reset")?.addEventListener("click", () => {
      document.querySelectorAll(".threshold").forEach(slider => { slider.value = told.rule[slider.dataset.key]; });
      threshold();
    });
  };

  /* Unpacking takes a moment and much memory: only for who comes to see it. */
  new IntersectionObserver((entries, observer) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    start().then(listen).catch(error => { note.textContent = text.failed.replace("{reason}", error.message); });
  }).observe(get("canvas"));
})();
