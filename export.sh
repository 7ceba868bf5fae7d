#!/usr/bin/env bash
# Write the two files that grand-challenge takes, and print their sizes: the image, and the weights as a separate model.
#
#   ./export.sh [FOLDER]    [dist]
#
# DOCKER, IMAGE, ENGINE, METHOD, BASE_IMAGE  as in build.sh
# SKIP_BUILD=1                               export the image as it is
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
docker=${DOCKER:-docker}
image=${IMAGE:-l2snet}
folder=${1:-$here/dist}
image_file=$folder/l2snet-image.tar.gz
model_file=$folder/l2snet-model.tar.gz

megabytes() { echo "$(($1 / 1000000)) MB"; }

[ "${SKIP_BUILD:-0}" = 1 ] || "$here/build.sh"

mkdir -p "$folder"
# pigz, where there is one, writes the same format on all cores.
"$docker" save "$image" | "$(command -v pigz || command -v gzip)" >"$image_file"
# Unpacked at /opt/ml/model, the networks' folders must lie at the top: no leading folder.
tar -czf "$model_file" -C "$here/weights" .

echo "image $image: $(megabytes "$("$docker" image inspect --format '{{.Size}}' "$image")")"
for file in "$image_file" "$model_file"; do
  echo "$file: $(megabytes "$(wc -c <"$file")")"
done
