#!/usr/bin/env bash
# Apache Kafka's command-line tools; README.md of this directory has the commands. $JAVA is
# how a class of theirs is run.
set -euf -o pipefail
tab=$'\t'

records() { for ((i = 0; i < $1; i++)); do echo "k$((i % $2)):tools-$i"; done; }

# The settings behind the first arguments, in a file.
file=$(mktemp)
trap 'rm -f "$file"' EXIT
settings() { printf '%s\n' "$@" > "$file"; }

tool() {
  local class=$1
  shift
  $JAVA "$class" --bootstrap-server "$bootstrap" "$@"
}

command=$1 bootstrap=$2
shift 2
case $command in
version)
  $JAVA org.apache.kafka.tools.TopicCommand --version | sed -nE "s/^([0-9.]+).*/version$tab\1/p"
  ;;
produce)
  topic=$1 count=$2 keys=$3
  settings "${@:4}"
  # The tool's own flag goes before the setting in the file.
  codec=$(sed -n 's/^compression.type=//p' "$file")
  # Only with --sync does it end with an error when a record fails, and then it takes a
  # second for each.
  sync=
  if ((count == 1)); then sync=--sync; fi
  records "$count" "$keys" | tool org.apache.kafka.tools.ConsoleProducer --topic "$topic" --command-config "$file" ${codec:+--compression-codec "$codec"} $sync \
    --reader-property parse.key=true --reader-property key.separator=: >&2
  records "$count" "$keys" | sed "s/:/$tab/; s/^/sent${tab}-1${tab}-1${tab}/"
  ;;
consume)
  topic=(--topic "$1") group=$2
  if [[ $1 == ^* ]]; then topic=(--include "$1"); fi
  settings "${@:3}"
  # Not by tool: $! is to be the consumer itself.
  $JAVA org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$bootstrap" "${topic[@]}" --group "$group" --from-beginning --command-config "$file" \
    --formatter-property print.partition=true --formatter-property print.offset=true --formatter-property print.key=true \
    > >(sed -u "s/^Partition:/record$tab/; s/${tab}Offset:/$tab/") < /dev/null &
  child=$!
  cat > /dev/null # until the input ends
  kill "$child"
  wait "$child" || true
  ;;
seek)
  topic=$1 first=$2
  echo resumed
  echo sought
  tool org.apache.kafka.tools.consumer.ConsoleConsumer --topic "$topic" --partition 0 --offset 2 --max-messages "$((first - 2))" \
    --formatter-property print.partition=true --formatter-property print.offset=true --formatter-property print.key=true |
    sed "s/^Partition:/record$tab/; s/${tab}Offset:/$tab/"
  ;;
admin)
  topic=$1 existing=$2
  topics() { tool org.apache.kafka.tools.TopicCommand "$@"; }
  topics --create --topic "$topic" --partitions 3 --config retention.ms=3600000 >&2
  topics --list | grep -qx "$topic" && echo "created${tab}true"
  described=$(topics --describe --topic "$topic")
  led=true
  if grep -q 'Leader: none' <<< "$described"; then led=false; fi
  echo "described$tab$(sed -nE 's/.*PartitionCount: ([0-9]+).*/\1/p' <<< "$described")$tab$led"
  echo "config$tab$(tool kafka.admin.ConfigCommand --describe --entity-type topics --entity-name "$topic" | sed -nE 's/.*retention.ms=([0-9]+) .*/\1/p')"
  offsets() { tool org.apache.kafka.tools.GetOffsetShell --topic "$existing" --time "$1" | awk -F: '{ sum += $3 } END { print sum }'; }
  echo "offsets$tab$(offsets earliest)$tab$(offsets latest)"
  topics --delete --topic "$topic"
  if topics --list | grep -qx "$topic"; then echo "deleted${tab}false"; else echo "deleted${tab}true"; fi
  ;;
*) exit 2 ;;
esac
echo done
