#!/usr/bin/env bash
# Plays the session that docs/demo.svg shows, against a `braid dev` that runs.
# Recorded with: termtosvg docs/demo.svg -c docs/demo.sh -g 84x36 -t window_frame
say() {
  printf '\033[1;32m$\033[0m '
  for ((i = 0; i < ${#1}; i++)); do printf '%s' "${1:i:1}"; sleep 0.018; done
  printf '\n'
  eval "$1" 2>&1
  sleep 1.1
}
clear
say "braid cluster list"
say "braid topic create orders --partitions 4 2>&1 | tail -1"
say "braid topic describe orders | tail -5 | cut -c1-78"
say "seq 1 1000 | sed 's/.*/customer-&:order &/' | braid produce orders -k :"
say "kcat -b 127.0.0.1:9092 -t orders -C -o beginning -e -q | wc -l"
say "echo 'customer-7:an unmodified Kafka client' | kcat -b 127.0.0.1:9092 -t orders -P -K :"
say "braid consume orders -g billing --from earliest -n 1001 | tail -2"
say "braid group describe billing | tail -5"
sleep 2
