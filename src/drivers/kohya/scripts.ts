/**
 * What runs on the host, for any POSIX shell on Linux. Variables that a script does not set come from `SshConnection.run`
 * as quoted assignments: $base (our directory), $run and $previous (folders of runs), what is linked, and numbers.
 */

/**
 * `alive FOLDER`: whether the run that wrote FOLDER/pid still lives. Process ids come again, so the file also holds when
 * the process was started and in which life of the host; a zombie is not alive.
 */
const alive = `
stat_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null; }
boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null; }
alive() {
  pid= started= booted=
  read -r pid started booted 2>/dev/null < "$1/pid" || return 1
  [ "$booted" = "$(boot)" ] || return 1
  set -- $(stat_of "$pid")
  [ "\${20:-}" = "$started" ] && [ "$1" != Z ]
}
`;

/** Prints what is there: sd-scripts, accelerate, base models, GPUs, runs of ours that go on. */
export const inspectScript = `${alive}
fact() { printf '%s\\t%s\\n' "$1" "$2"; }
mkdir -p "$base" && base=$(cd "$base" && pwd) || exit 1
fact base "$base"
command -v setsid > /dev/null && fact setsid yes
sd=
for dir in "$base/sd-scripts" "$HOME/sd-scripts" "$HOME/kohya_ss/sd-scripts" /opt/sd-scripts /opt/kohya_ss/sd-scripts \\
  /workspace/sd-scripts /workspace/kohya_ss/sd-scripts; do
  if [ -f "$dir/train_network.py" ]; then sd=$dir; break; fi
done
[ -n "$sd" ] || exit 0
fact sd "$sd"
for script in train_network train_db train_textual_inversion; do
  [ -f "$sd/$script.py" ] && fact script "$script"
done
fact version "$(git -c safe.directory='*' -C "$sd" describe --tags --always 2>/dev/null < /dev/null)"
for program in "$sd/venv/bin/accelerate" "$sd/.venv/bin/accelerate" "\${sd%/*}/venv/bin/accelerate" \\
  "$(command -v accelerate)" "$HOME/.local/bin/accelerate" /opt/conda/bin/accelerate; do
  if [ -n "$program" ] && [ -x "$program" ]; then fact accelerate "$program"; break; fi
done
[ -d "$base/tokenizers" ] && fact tokenizers "$base/tokenizers"
for dir in "$base/checkpoints" "$sd/models" "$HOME/models"; do
  for file in "$dir"/*.safetensors "$dir"/*.ckpt; do
    [ -f "$file" ] && fact checkpoint "$file"
  done
done
for folder in "$base"/runs/*/; do
  [ -e "$folder/pid" ] && ! [ -e "$folder/exit_code" ] && alive "$folder" && fact running "$folder"
done
for device in /dev/nvidia0 /dev/kfd /dev/dxg; do [ -e "$device" ] && fact device "$device"; done
# It may take seconds to wake a driver that sleeps.
timeout 2 nvidia-smi --query-gpu=memory.total,memory.free,name --format=csv,noheader,nounits 2>/dev/null < /dev/null |
  while read -r gpu; do fact gpu "$gpu"; done
exit 0
`;

/** Ends a run: its whole process group, politely, then not. Marks it first, so that everybody knows why it ended. */
const stop = `
stop() {
  [ -d "$1" ] || return 0
  : > "$1/canceled"
  [ -e "$1/exit_code" ] && return 0
  alive "$1" || return 0
  group=$pid
  kill -s TERM -- "-$group" 2>/dev/null
  tries=0
  while alive "$1" && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -s KILL -- "-$group" 2>/dev/null
  return 0
}
`;

export const cancelScript = `${alive}${stop}
stop "$run"
exit 0
`;

/**
 * Makes the folder of a run and tells what is known of it: `launched`, or how many steps the last state of the run
 * before has behind it. That state is moved here; the run before is over, whatever it thinks. States of a checkpoint are
 * large, so folders are swept: six hours after a success, whose results are fetched within minutes, else after three
 * days.
 */
export const prepareScript = `${alive}${stop}
if [ -e "$run/launched" ]; then printf 'launched\\tyes\\n'; exit 0; fi
for folder in "$base"/runs/*/; do
  kept=4320
  [ "$(cat "$folder/exit_code" 2>/dev/null)" = 0 ] && kept=360
  [ -n "$(find "$folder" -maxdepth 0 -mmin "+$kept" 2>/dev/null)" ] && ! alive "$folder" && rm -rf "$folder"
done
mkdir -p "$run/data" "$run/out" || exit 1
ln -sfn "$checkpoint" "$run/$link" || exit 1
if [ -n "$tokenizers" ]; then ln -sfn "$tokenizers" "$run/tokenizers" || exit 1; fi
if [ -n "$previous" ] && [ -d "$previous" ]; then
  stop "$previous"
  before=$(cat "$previous/resumed" 2>/dev/null || echo 0)
  state=
  for found in "$previous"/out/model-step*-state; do
    # Written last: without it the state was cut off.
    [ -s "$found/random_states_0.pkl" ] || continue
    number=\${found##*-step}
    reached=$(expr "$before" + "\${number%-state}")
    # Of a training that came to its end, and whose result was lost on the way: something must be left to do.
    [ "$reached" -lt "$total" ] && state=$found steps=$reached
  done
  if [ -z "$state" ] && [ -d "$previous/resume" ]; then state=$previous/resume steps=$before; fi
  if [ -n "$state" ] && ! [ -d "$run/resume" ]; then
    echo "$steps" > "$run/resumed" && mv "$state" "$run/resume" || exit 1
  fi
  rm -rf "$previous"
fi
[ -d "$run/resume" ] && printf 'resumed\\t%s\\n' "$(cat "$run/resumed")"
exit 0
`;

/** Starts run.sh, once, in a session of its own: nothing of ours has to live for it to go on. */
export const launchScript = `
[ -e "$run/canceled" ] && exit 0
mkdir "$run/launched" 2>/dev/null || exit 0
setsid sh "$run/run.sh" < /dev/null > "$run/log" 2>&1 &
tries=0
while ! [ -e "$run/pid" ] && [ "$tries" -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
exit 0
`;

/**
 * The run itself; needs $run, $accelerate and $script. The trap makes the shell outlive what it started, so that the run
 * counts as alive as long as it holds the GPU: one, that with the most free memory; left to itself, accelerate takes all.
 */
export const trainScript = `${alive}
cd "\${run:?}" || exit 1
trap : TERM
echo "$$ $(stat_of $$ | cut -d ' ' -f 20) $(boot)" > pid.part && mv pid.part pid || exit 1
export PYTHONUNBUFFERED=1 PYTHONUTF8=1 COLUMNS=200 NO_COLOR=1
if [ -z "\${CUDA_VISIBLE_DEVICES:-}" ]; then
  free=$(nvidia-smi --query-gpu=memory.free,index --format=csv,noheader,nounits 2>/dev/null | sort -nr | head -n 1)
  [ -n "$free" ] && export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES="\${free##*, }"
fi
"$accelerate" launch --num_processes 1 --num_cpu_threads_per_process 1 "$script" --config_file config.toml
code=$?
echo "$code" > exit_code.part && mv exit_code.part exit_code
`;

/**
 * Prints where a run stands, what it has left, an empty line, and a piece of its log from $offset. The state is looked
 * at first: of a run that has ended, the log is whole.
 */
export const statusScript = `${alive}
fact() { printf '%s\\t%s\\n' "$1" "$2"; }
state() {
  if [ -e "$run/exit_code" ]; then echo "exited $(cat "$run/exit_code")"
  elif ! [ -e "$run/launched" ]; then echo unknown
  elif ! [ -e "$run/pid" ] && [ -n "$(find "$run/launched" -maxdepth 0 -mmin -1 2>/dev/null)" ]; then echo starting
  elif alive "$run"; then echo running
  # It may have ended while we looked.
  elif [ -e "$run/exit_code" ]; then echo "exited $(cat "$run/exit_code")"
  else echo gone
  fi
}
fact state "$(state)"
[ -e "$run/canceled" ] && fact canceled yes
[ -e "$run/resumed" ] && fact resumed "$(cat "$run/resumed")"
[ -s "$run/out/model.safetensors" ] && fact model yes
for file in "$run"/out/sample/*.png; do
  [ -f "$file" ] && fact sample "$(wc -c < "$file" | tr -d ' ') \${file##*/}"
done
echo
[ -e "$run/log" ] && tail -c "+$((offset + 1))" "$run/log" | head -c "$limit"
exit 0
`;
