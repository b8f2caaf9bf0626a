#!/usr/bin/env bash
# background.sh COMMAND...: runs it with the processor time that everything else leaves.
# In a session of its own, since Linux weighs sessions first (sched(7), "The autogroup feature") and niceness within them.
set -euo pipefail
setsid bash -c 'echo 10 2>/dev/null > /proc/self/autogroup || true; exec nice -n 10 "$@"' background "$@" &
trap 'kill -- -$!' INT TERM
wait $!
