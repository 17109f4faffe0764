#!/usr/bin/env bash
# From nothing to clips: dataset, VAE, latents, diffusion transformer, samples.
# Made for two CPU cores without accelerator. Run it again and it continues
# where it stopped.
source "$(dirname "$0")/install.sh" data,text,train
source launch/cpu.sh
out=quickstart
config=configs/tiny.py
started=$SECONDS

step() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)); }

step "1/5 dataset: captioned clips of moving shapes"
pyramid-shapes --out=$out/shapes --text=$out/text

step "2/5 causal VAE"
pyramid-train --config=$config:vae --workdir=$out/vae

step "3/5 latents of the dataset"
pyramid-encode --config=$config --videos=$out/shapes --vae=$out/vae \
  --out=$out/latents

step "4/5 diffusion transformer with the pyramid flow loss"
pyramid-train --config=$config --workdir=$out/train

step "5/5 clips of captions it has not seen"
pyramid-generate --workdir=$out/train --heldout=$out/shapes --clips=6 \
  --out=$out/samples --sheet=$out/samples/contact_sheet.png

step "done"
ls -1 $out/samples/*.mp4
echo "$out/samples/contact_sheet.png"
echo "$out/train/metrics.jsonl"
