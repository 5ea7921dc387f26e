#!/usr/bin/env bash
# kcat; README.md of this directory has the commands.
set -euo pipefail
tab=$'\t'

# The settings behind the first arguments, as kcat takes them.
settings() { for s in "$@"; do printf '%s\n' -X "$s"; done; }

records() { for ((i = 0; i < $1; i++)); do echo "k$((i % $2)):kcat-$i"; done; }

command=$1 bootstrap=$2
shift 2
case $command in
version)
  kcat -V | sed -nE "s/^Version ([0-9.]+).*librdkafka ([0-9.]+).*/version${tab}\1 (librdkafka \2)/p"
  ;;
produce)
  topic=$1 count=$2 keys=$3
  shift 3
  mapfile -t more < <(settings "$@")
  records "$count" "$keys" | kcat -b "$bootstrap" "${more[@]}" -t "$topic" -P -K : -X message.timeout.ms=20000 >&2
  records "$count" "$keys" | sed "s/:/$tab/; s/^/sent${tab}-1${tab}-1${tab}/"
  ;;
consume)
  topic=$1 group=$2
  shift 2
  mapfile -t more < <(settings "$@")
  kcat -b "$bootstrap" "${more[@]}" -X auto.offset.reset=earliest -u -f 'record\t%p\t%o\t%k\t%s\n' -G "$group" "$topic" \
    2> >(sed -u -nE "s/.*rebalanced.*: assigned: (.*)/assigned$tab\1/p; s/.*rebalanced.*: revoked: (.*)/revoked$tab\1/p; w /dev/stderr") < /dev/null &
  child=$!
  cat > /dev/null # until the input ends
  kill "$child"
  wait "$child" || true
  ;;
seek)
  topic=$1
  echo resumed
  echo sought
  kcat -b "$bootstrap" -t "$topic" -C -p 0 -o 2 -e -q -f 'record\t%p\t%o\t%k\t%s\n'
  ;;
*) exit 2 ;;
esac
echo done
