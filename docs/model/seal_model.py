#!/usr/bin/env python3
"""Explicit-state model of the seal: every interleaving of a small world. README.md beside this file says what is in it.

    seal_model.py [--attempts N] [--faults N]   the protocol as it is: must hold
    seal_model.py --break X ...                 without one of its rules: must fail, with a shortest history that shows it
    seal_model.py --each ...                    every break in turn, without the histories; exits 0 if all of them fail
    seal_model.py --list                        the rules
"""
import argparse
import gc
import sys
import time
from collections import deque

RULES = {
    "lease": "a gateway acknowledges without a lease",
    "lease-gap": "a gateway that has a lease again acknowledges what it sent before the gap",
    "lease-before-map": "a gateway uses a new lease before it has the map of that moment",
    "drain": "a gateway says 'held' with appends in flight",
    "stale-held": "a 'held' of a sealing that was taken back counts for the next one",
    "takeback-after-seal": "a seal is taken back although its record may have been appended",
    "seal-record": "the end is read, then the producers; there is no seal record",
    "no-unwind": "the producers are taken as they are read, with what came behind the end",
    "end-first": "the log is read behind the seal record before the producers are, not after",
    "leadership": "producers and what lies behind the end are read from two leaders",
    "carry": "the producers are not carried to the new head",
    "carry-on": "producers that the old head was only told of are not carried on",
    "first": "any first sequence is taken from a producer that the head does not know",
    "pipelined-opening": "further batches are sent behind an opening batch that is in flight",
    "unsafe-known": "a head counts as knowing a producer by a batch that is not replicated",
}

# A batch is one letter: "012" are the sequences of epoch 0, "abc" those of epoch 1; "S" is the seal record.
# Any order of batches is the order of their letters.
EPOCH = {"0": 0, "1": 0, "2": 0, "a": 1, "b": 1, "c": 1}
SEQUENCE = {"0": 0, "1": 1, "2": 2, "a": 0, "b": 1, "c": 2}
BATCHES = ("012", "abc")
NONE = (0, -1)  # the state of a producer that nothing is known of: its next is sequence 0 of epoch 0, or of any later one

# A state. Logs: OLD, NEW, and how much of each is replicated (SAFE).
# SENT: for each epoch of the producer one digit for each batch: 0 never sent, 1/2 in flight through gateway 0/1, 3 acknowledged,
# 4 to be sent again, or given up if the epoch is over; the last epoch is the current one.
# WIRE: for each gateway what it has sent to the old and to the new head, in order. LATE: what broken connections still bring.
# VIEW: the map version that a gateway has: 0 open, 1 sealing, 2 open again, 3 sealing again, 4 moved. FENCED: its lease has run out.
# HELD: the version that it last held under, as the controller knows; AT: the version that is published.
# ENDING: the operation says so. MIND: what only the running controller knows: None, (end,) or (end, producers[, end of the log]).
# MOVED: (end, carried producers), once in the map. TOLD: what the old head was told at its opening.
OLD, OLDSAFE, NEW, NEWSAFE, SENT, WIRE, LATE, VIEW, FENCED, HELD, AT, ENDING, MIND, MOVED, TOLD, ATTEMPTS, FAULTS = range(17)
SEALING = (1, 3)
EMPTY = ("", "")


def start(told, attempts, faults, batches):
    sent = "".join("3" if i <= told[1] else "0" for i in range(batches))
    return ("", 0, "", 0, (sent,), (EMPTY, EMPTY), EMPTY, (0, 0), (False, False), (0, 0), 0, False, None, None, told, attempts, faults)


def but(st, *changes):
    out = list(st)
    for i in range(0, len(changes), 2):
        out[changes[i]] = changes[i + 1]
    return tuple(out)


def put(t, i, v):
    return t[:i] + (v,) + t[i + 1:]


def producer(log):
    """The producer as a broker with this log knows it, or None."""
    for b in reversed(log):
        if b != "S":
            return EPOCH[b], SEQUENCE[b]
    return None


def takes(log, b):
    """What a broker does with a batch: "new", "repeat" or "no"."""
    last = producer(log)
    if last is None:
        return "new"  # any first sequence of a producer that it does not know
    epoch, sequence = EPOCH[b], SEQUENCE[b]
    if epoch == last[0]:
        return "new" if sequence == last[1] + 1 else "repeat" if sequence <= last[1] else "no"
    return "new" if epoch > last[0] and sequence == 0 else "no"


def opens(told, b):
    """Whether a batch is the next of a producer in this state."""
    epoch, sequence = EPOCH[b], SEQUENCE[b]
    return sequence == told[1] + 1 if epoch == told[0] else epoch > told[0] and sequence == 0


def before(st):
    return BATCHES[0][: st[TOLD][1] + 1]


def wrong(st, off):
    """What is wrong with a state, or None: the log has each batch once, in order, without gaps, and all that were acknowledged."""
    moved = st[MOVED]
    old = st[OLD][: moved[0]] if moved else st[OLD]
    log = before(st) + (old + st[NEW]).replace("S", "")
    n = [0, 0]
    last = 0
    for b in log:
        e = EPOCH[b]
        if e < last or SEQUENCE[b] != n[e]:
            return f"the log is {log!r}"
        n[e] += 1
        last = e
    for e, sent in enumerate(st[SENT]):
        k = sent.rfind("3")
        if k >= n[e]:
            return f"{BATCHES[e][k]} was acknowledged, the log is {log!r}"
    if moved and not off:
        truth = producer(old) or st[TOLD]
        if moved[1] != truth and not (moved[1][0] > truth[0] and moved[1][1] == -1):
            return f"carried {moved[1]}, but the producer was at {truth}"
    return None


def steps(st, off, say):
    """All next states, as (label, state); labels only if say."""
    out = []

    def add(label, *changes):
        out.append((label(), but(st, *changes)) if say else (None, but(st, *changes)))

    producer_steps(st, off, add)
    gateway_steps(st, off, add)
    for head in (0, 1):
        broker_steps(st, off, add, head)
    if not st[MOVED]:
        controller_steps(st, off, add)
    if off:
        return out
    return [(label, tidy(s)) for label, s in out]


def tidy(st):
    """Forget what nothing can come of any more: what lies or arrives behind the end of a sealed extent, since no gateway waits for it."""
    if st[MOVED]:
        end = st[MOVED][0]
        wire, late = st[WIRE], st[LATE]
        if not wire[0][0] and not wire[1][0] and (late[0] or len(st[OLD]) > end or st[OLDSAFE] > end or st[HELD] != (0, 0)):
            st = but(st, OLD, st[OLD][:end], OLDSAFE, end, LATE, ("", late[1]), HELD, (0, 0))
    return st


def send(st, off, add, g, b, sent, what):
    """Gateway g takes batch b of the producer, if it does at all."""
    view = st[VIEW][g]
    if view in SEALING or st[FENCED][g]:
        return  # held: as if it were sent later, see "copy"
    head = view == 4
    told = st[MOVED][1] if head else st[TOLD]
    if head and "carry" in off:
        told = NONE
    key = EPOCH[b], SEQUENCE[b]
    log, safe = (st[NEW], st[NEWSAFE]) if head else (st[OLD], st[OLDSAFE])
    if key[0] == told[0] and key[1] <= told[1]:
        if what == "sends":
            e = key[0]
            acked = put(sent, e, sent[e][: key[1]] + "3" + sent[e][key[1] + 1:])
            add(lambda: f"g{g} answers {b} from what was carried", SENT, acked, ATTEMPTS, st[ATTEMPTS] - 1)
        return
    known = log if "unsafe-known" in off else log[:safe]
    wire = st[WIRE][g][head]
    if "first" not in off and not opens(told, b) and producer(known) is None:
        if not ("pipelined-opening" in off and wire and opens(told, wire[0])):
            return  # too early: held, then refused
    if what == "sends":
        e, i = key
        sent = put(sent, e, sent[e][:i] + str(g + 1) + sent[e][i + 1:])
        add(lambda: f"g{g} sends {b} to the {('old', 'new')[head]} head", SENT, sent, WIRE, put(st[WIRE], g, put(st[WIRE][g], head, wire + b)),
            ATTEMPTS, st[ATTEMPTS] - 1)
    else:
        add(lambda: f"g{g} sends a copy of {b} that it had held to the {('old', 'new')[head]} head", WIRE,
            put(st[WIRE], g, put(st[WIRE][g], head, wire + b)), ATTEMPTS, st[ATTEMPTS] - 1, FAULTS, st[FAULTS] - 1)


def producer_steps(st, off, add):
    """An idempotent producer with a window of two batches, which may go to any gateway. It may give up and raise its epoch."""
    sent = st[SENT]
    e = len(sent) - 1
    now = sent[e]
    first = len(now) - len(now.lstrip("3"))
    window = now[first: first + 2]
    idle = next((first + i for i, x in enumerate(window) if x in "04"), None)
    if st[ATTEMPTS]:
        if idle is not None:
            for g in (0, 1):
                send(st, off, add, g, BATCHES[e][idle], sent, "sends")
        if st[FAULTS]:
            for k, batches in enumerate(sent):
                for i, x in enumerate(batches):
                    if x in "1234":
                        for g in (0, 1):
                            send(st, off, add, g, BATCHES[k][i], sent, "copy")
    for i, x in enumerate(now):
        if x in "12":
            add(lambda: f"the producer gives the attempt at {BATCHES[e][i]} up", SENT, put(sent, e, now[:i] + "4" + now[i + 1:]))
    if st[FAULTS] and e == 0 and first < len(now):
        over = now.replace("1", "4").replace("2", "4")
        add(lambda: "the producer raises its epoch", SENT, (over, "0" * (len(now) - 1)), FAULTS, st[FAULTS] - 1)


def resolve(sent, g, b, ok):
    """The producer hears from gateway g about b, if it still waits for that."""
    e, i = EPOCH[b], SEQUENCE[b]
    if sent[e][i] != str(g + 1):
        return sent
    return put(sent, e, sent[e][:i] + ("3" if ok else "4") + sent[e][i + 1:])


def breaks(st, g, only=(0, 1)):
    """The connections of gateway g to brokers break: what was on them is late, and nobody waits for it."""
    wire, late, sent = st[WIRE][g], st[LATE], st[SENT]
    for head in only:
        for b in wire[head]:
            sent = resolve(sent, g, b, False)
        late = put(late, head, "".join(sorted(late[head] + wire[head])))
        wire = put(wire, head, "")
    return SENT, sent, LATE, late, WIRE, put(st[WIRE], g, wire)


def gateway_steps(st, off, add):
    at = st[AT]
    for g in (0, 1):
        view, fenced = st[VIEW][g], st[FENCED][g]
        if view < at or fenced:
            # A gateway without a lease gets one with the map of that moment, not before.
            add(lambda: f"g{g} has map {at}" + (" and a lease" if fenced else ""), VIEW, put(st[VIEW], g, at), FENCED, put(st[FENCED], g, False))
            if fenced and "lease-before-map" in off:
                add(lambda: f"g{g} has a lease, and map {view}", FENCED, put(st[FENCED], g, False))
        if view in SEALING and not fenced and st[HELD][g] != view and (not st[WIRE][g][0] or "drain" in off):
            add(lambda: f"g{g} says held under map {view}", HELD, put(st[HELD], g, view))
    if st[FAULTS] and (st[WIRE][1][0] or st[WIRE][1][1]):
        add(lambda: "the connections of g1 to brokers break", *breaks(st, 1), FAULTS, st[FAULTS] - 1)


def broker_steps(st, off, add, head):
    log, safe = (st[NEW], st[NEWSAFE]) if head else (st[OLD], st[OLDSAFE])
    LOG, SAFE = (NEW, NEWSAFE) if head else (OLD, OLDSAFE)
    name = ("old", "new")[head]
    for g in (0, 1):
        wire = st[WIRE][g][head]
        if not wire:
            continue
        b = wire[0]
        rest = put(st[WIRE], g, put(st[WIRE][g], head, wire[1:]))
        does = takes(log, b)
        # The answer comes with the append. A gateway whose lease has run out does not pass it on.
        ok = does != "no" and (not st[FENCED][g] or "lease" in off)
        grown = log + b if does == "new" else log
        heard = resolve(st[SENT], g, b, ok)
        add(lambda: f"the {name} head has {b} of g{g}: {does}", LOG, grown, SAFE, safe if does == "no" else len(grown), SENT, heard, WIRE, rest)
        if st[FAULTS] and does == "new":
            failed = resolve(st[SENT], g, b, False)
            add(lambda: f"the {name} head refuses {b} of g{g}: too few replicas", SENT, failed, WIRE, rest, FAULTS, st[FAULTS] - 1)
            add(lambda: f"the leader of the {name} head alone has {b} of g{g}", LOG, grown, SENT, failed, WIRE, rest, FAULTS, st[FAULTS] - 1)
    late = st[LATE][head]
    for i, b in enumerate(late):
        if i and late[i - 1] == b:
            continue
        rest = put(st[LATE], head, late[:i] + late[i + 1:])
        if b == "S":
            grown = log if "S" in log else log + b
            if "S" in log and st[FAULTS]:
                add(lambda: "late: the old head has the seal record, the first is forgotten", OLD, log + b, OLDSAFE, len(log) + 1, LATE, rest,
                    FAULTS, st[FAULTS] - 1)
        else:
            grown = log + b if takes(log, b) == "new" else log
        if grown != log:
            add(lambda: f"late: the {name} head has {b}", LOG, grown, SAFE, len(grown), LATE, rest)
            if st[FAULTS]:
                add(lambda: f"late: the leader of the {name} head alone has {b}", LOG, grown, LATE, rest, FAULTS, st[FAULTS] - 1)
    if safe < len(log):
        mind = st[MIND]
        if not head and mind and len(mind) > 1 and "leadership" not in off:
            mind = mind[:1]  # what was read is only good with the rest from the same leader
        add(lambda: f"another broker leads the {name} head, without {log[safe:]}", LOG, log[:safe], MIND, mind)


def unwound(log, end, known):
    """The producer at end, if it was read as known at some time after that, and log is what the leader has since."""
    late = next((b for b in log[end:] if b != "S"), None)
    if late is None:
        return known
    return EPOCH[late], SEQUENCE[late] - 1


def controller_steps(st, off, add):
    at, mind, held, old = st[AT], st[MIND], st[HELD], st[OLD]
    if at in (0, 2):
        add(lambda: "controller: sealing", AT, at + 1)
        return
    if not st[ENDING]:
        if held[1] != at and (st[FENCED][1] or st[FAULTS]):
            change = (HELD, put(held, 1, at), FENCED, (False, True)) + (() if st[FENCED][1] else (FAULTS, st[FAULTS] - 1))
            if not off & {"lease", "lease-gap"}:
                change += breaks(st, 1)
            add(lambda: "the lease of g1 has run out", *change)
        if all(h == at or "stale-held" in off and h for h in held):
            add(lambda: "controller: ending", ENDING, True)
    if at == 1 and st[FAULTS] and (not st[ENDING] or "takeback-after-seal" in off):
        add(lambda: "controller: takes the seal back", AT, 2, ENDING, False, MIND, None, FAULTS, st[FAULTS] - 1)
    if not st[ENDING]:
        return
    if mind is None:
        if "seal-record" in off:
            add(lambda: "controller reads the end", MIND, (len(old),))
            return
        ends(st, off, add)
        return
    if st[FAULTS]:
        add(lambda: "the controller dies; the next one resumes", MIND, None, FAULTS, st[FAULTS] - 1)
    if len(mind) == 1:
        if "end-first" in off:
            add(lambda: "controller reads the end of the log", MIND, (mind[0], None, len(old)), OLDSAFE, len(old))
        else:
            add(lambda: "controller reads the producers", MIND, mind + (producer(old),))
        return
    moves(st, off, add)


def ends(st, off, add):
    """The controller appends the seal record, again if it was before; its offset is the end."""
    old = st[OLD]
    has = old.rfind("S")
    if has >= 0:
        add(lambda: f"controller appends the seal record: it is at {has} already", MIND, (has,), OLDSAFE, max(st[OLDSAFE], has + 1))
    else:
        add(lambda: f"controller appends the seal record: it is at {len(old)}", MIND, (len(old),), OLD, old + "S", OLDSAFE, len(old) + 1)
    if not st[FAULTS]:
        return
    less = st[FAULTS] - 1
    if has < 0:
        add(lambda: "the controller dies with the seal record under way; the next one resumes", LATE, (st[LATE][0] + "S", st[LATE][1]), FAULTS, less)
        add(lambda: "the leader of the old head alone has the seal record", OLD, old + "S", FAULTS, less)
    else:
        add(lambda: f"controller appends the seal record, the first is forgotten: it is at {len(old)}", MIND, (len(old),), OLD, old + "S",
            OLDSAFE, len(old) + 1, FAULTS, less)


def moves(st, off, add):
    """What lies behind the end is read, and the new map is written. A fetch reads what is replicated, so the read waits for all that the
    leader has."""
    mind, old = st[MIND], st[OLD]
    end = mind[0]
    if "seal-record" in off or "no-unwind" in off:
        known = mind[1]
    elif "end-first" in off:
        known = unwound(old[: mind[2]], end, producer(old))
    else:
        known = unwound(old, end, mind[1])
    if known is None:
        known = NONE if "carry-on" in off else st[TOLD]
    add(lambda: f"controller reads what lies behind the end, writes the new map: end {end}, carried {known}", AT, 4, MIND, None, ENDING, False,
        MOVED, (end, known), OLDSAFE, len(old))


def explore(off, attempts, faults, batches, out):
    began = time.process_time()
    first = [start(told, attempts, faults, batches) for told in (NONE, (0, 0))]
    seen = dict.fromkeys(first)
    todo = deque(first)
    finished = 0
    while todo:
        st = todo.popleft()
        bad = wrong(st, off)
        if bad:
            path = [st]
            while seen[path[-1]] is not None:
                path.append(seen[path[-1]])
            path.reverse()
            out(f"fails after {len(path) - 1} steps ({len(seen)} states, {time.process_time() - began:.1f} s): {bad}")
            if before(path[0]):
                out(f"    (an extent before has {before(path[0])})")
            for a, b in zip(path, path[1:]):
                out("    " + next(label for label, nx in steps(a, off, True) if nx == b))
            return False
        if st[MOVED] and st[SENT][-1].strip("3") == "":
            finished += 1
        for _, nx in steps(st, off, False):
            if nx not in seen:
                seen[nx] = st
                todo.append(nx)
    out(f"holds in all {len(seen)} states ({finished} of them with everything acknowledged after the move; {time.process_time() - began:.1f} s)")
    return True


def brief(line):
    """Print all but the steps of a history."""
    if not line.startswith(" "):
        print(line)


def each(attempts, faults, batches):
    """Leave out each rule in turn, in a smaller world first."""
    held = []
    for rule, text in RULES.items():
        print(f"--break {rule}: {text}")
        worlds = sorted({(min(2, attempts), faults), (attempts, faults)})
        if all(explore({rule}, *world, batches, brief) for world in worlds):
            held.append(rule)
    print("breaks that do not fail: " + ", ".join(held) if held else "every break fails")
    return 1 if held else 0


def main():
    gc.disable()  # there are no cycles, and looking for them takes half of the time
    p = argparse.ArgumentParser(description="explicit-state model of the seal")
    p.add_argument("--attempts", type=int, default=4, help="how often gateways send batches of the producer")
    p.add_argument("--faults", type=int, default=2, help="how many faults there may be")
    p.add_argument("--batches", type=int, default=3, choices=(2, 3), help="how many batches the producer has")
    p.add_argument("--break", dest="off", choices=RULES, help="leave this rule out")
    p.add_argument("--each", action="store_true", help="leave out each rule in turn")
    p.add_argument("--list", action="store_true", help="list the rules")
    a = p.parse_args()
    if a.list:
        for rule, text in RULES.items():
            print(f"{rule:20} {text}")
        return 0
    if a.each:
        return each(a.attempts, a.faults, a.batches)
    return 0 if explore({a.off} if a.off else set(), a.attempts, a.faults, a.batches, print) else 1


if __name__ == "__main__":
    sys.exit(main())
