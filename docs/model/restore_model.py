#!/usr/bin/env python3
"""Explicit-state model of a failover and the restore after it. README.md beside this file says what is in it.

    restore_model.py [--attempts N] [--faults N]   the protocol as it is: must hold
    restore_model.py --break X ...                 without one of its rules: must fail, with a shortest history that shows it
    restore_model.py --each ...                    every break in turn, without the histories; exits 0 if all of them fail
    restore_model.py --list                        the rules
"""
import argparse
import gc
import sys
import time
from collections import deque

RULES = {
    "sent-again": "nobody looks for what producers have sent again",
    "roll": "what was sent again is looked for once, in a head that goes on",
    "hold": "what was sent again is looked for before the head is sealed",
    "carry": "what the returned extent knew of its producers is not carried to the new head",
    "carry-head": "only what the returned extent knew is carried to the new head",
    "returned-seal": "the returned extent takes appends after the look at it",
    "late-behind-seal": "what comes behind the seal of the old head counts as sent again",
    "before": "what was sent again is not looked for in the extents of the cluster before the returned one",
    "part": "of what was sent again only in part, the first copies are hidden, not the second",
}

# A batch is one digit, its sequence. A log is the batches in it, in order. The producer's state is its last sequence; -1 = none.
BATCHES = "012"
NONE = -1

# A state. LOGS: of the extent whose cluster fails (0), of the head that it is failed over to (1), and of the head after the roll (2).
# ENDS: of the first two; None = not sealed. SENT: one digit for each batch: 0 never sent, 1/2 in flight through gateway 0/1, 3 acknowledged,
# 4 to be sent again. WIRE: for each gateway what it has sent to each log, in order. LATE: what broken connections still bring.
# VIEW: the map version that a gateway has: 0 open, 1 the cluster failed and its head is held, 2 failed over, 3 that head is held, 4 rolled.
# FENCED: gateway 1 has no lease. AT: the version that is published. TOLD: what the head after the roll was told.
# SEEN: how much of the failed extent readers have seen, for readers that do not wait. BACK: None, or what is hidden in the returned extent
# and in the one before, what is hidden in the head after it, and what is appended again. BEFORE: the log of an extent of the same cluster
# that a roll had ended, so that the failed extent was told of it; nobody else was.
LOGS, ENDS, SENT, WIRE, LATE, VIEW, FENCED, AT, TOLD, SEEN, BACK, ATTEMPTS, FAULTS, WAITS, BEFORE = range(15)
HEAD = {0: 0, 2: 1, 4: 2}  # the log that a gateway with a view appends to; the other views hold


def starts(attempts, faults, batches):
    """All first states: readers wait or not, and of what lies in the extent before, any answer may be lost."""
    nothing = ("", "", "")
    for waits in (False, True):
        for sent in ("", "3", "4", "33", "34", "43", "44"):
            yield (nothing, (None, None), sent.ljust(batches, "0"), (nothing, nothing), nothing, (0, 0), False, 0, NONE, 0, None, attempts, faults, waits, BATCHES[: len(sent)])


def but(st, *changes):
    out = list(st)
    for i in range(0, len(changes), 2):
        out[changes[i]] = changes[i + 1]
    return tuple(out)


def put(t, i, v):
    return t[:i] + (v,) + t[i + 1:]


def last(log):
    return int(log[-1]) if log else NONE


def takes(log, b):
    """What a broker does with a batch: "new", "repeat" or "no"."""
    if b in log:
        return "repeat"
    return "new" if not log or int(b) == last(log) + 1 else "no"  # any first sequence of a producer that it does not know


def extent(st, i):
    """What is part of an extent: what lies below its end."""
    return st[LOGS][i][: st[ENDS][i]] if i < 2 else st[LOGS][2]


def wrong(st):
    """What is wrong with a state, or None."""
    before, failed, head, rolled = st[BEFORE], extent(st, 0), extent(st, 1), extent(st, 2)
    if st[BACK] is None:
        log, safe = head + rolled, before + failed + head + rolled
    else:
        hidden, hidden_there, again = st[BACK]
        in_place = before + (failed if st[WAITS] else failed[: st[SEEN]])
        log = safe = "".join(b for b in in_place if b not in hidden) + "".join(b for b in head if b not in hidden_there) + rolled + again
    for b in BATCHES[: len(st[SENT])]:
        if log.count(b) > 1:
            return f"{b} is in the log {log!r} twice"
        if st[SENT][int(b)] == "3" and b not in safe:
            return f"{b} was acknowledged, the log is {log!r}"
    if st[BACK] is not None and st[WAITS] and log != BATCHES[: len(log)]:
        return f"the log is {log!r}, not in order"
    return None


def steps(st, off, say):
    """All next states, as (label, state); labels only if say."""
    out = []

    def add(label, *changes):
        out.append((label() if say else None, but(st, *changes)))

    producer_steps(st, add)
    gateway_steps(st, add)
    for i in range(3):
        broker_steps(st, off, add, i)
    controller_steps(st, off, add)
    return [(label, tidy(s, off)) for label, s in out]


def tidy(st, off):
    """Forget what nothing can come of any more: what lies or arrives behind an end."""
    logs, late = st[LOGS], st[LATE]
    for i in (0, 1):
        if i == 1 and "late-behind-seal" in off and st[BACK] is None:
            continue
        if st[ENDS][i] is not None:
            logs, late = put(logs, i, logs[i][: st[ENDS][i]]), put(late, i, "")
    return but(st, LOGS, logs, LATE, late)


def send(st, add, g, b, what):
    """Gateway g takes batch b of the producer, if it does at all."""
    if st[VIEW][g] not in HEAD or g == 1 and st[FENCED]:
        return  # held: as if it were sent later, see "copy"
    i = HEAD[st[VIEW][g]]
    told = (last(st[BEFORE]), NONE, st[TOLD])[i]
    if int(b) <= told:
        if what == "sends":
            add(lambda: f"g{g} answers {b} from what was carried", SENT, put_digit(st[SENT], b, "3"), ATTEMPTS, st[ATTEMPTS] - 1)
        return
    if not st[LOGS][i] and int(b) != told + 1 and int(b) != st[SENT].find(st[SENT].strip("3")[:1] or "-"):
        return  # early, and what comes again is the first that is not acknowledged
    wire = put(st[WIRE], g, put(st[WIRE][g], i, st[WIRE][g][i] + b))
    if what == "sends":
        add(lambda: f"g{g} sends {b} to log {i}", SENT, put_digit(st[SENT], b, str(g + 1)), WIRE, wire, ATTEMPTS, st[ATTEMPTS] - 1)
    else:
        add(lambda: f"g{g} sends a copy of {b} that it had held to log {i}", WIRE, wire, ATTEMPTS, st[ATTEMPTS] - 1, FAULTS, st[FAULTS] - 1)


def put_digit(sent, b, digit):
    i = int(b)
    return sent[:i] + digit + sent[i + 1:]


def producer_steps(st, add):
    """An idempotent producer with a window of two batches, which may go to any gateway."""
    sent = st[SENT]
    first = len(sent) - len(sent.lstrip("3"))
    window = range(first, min(first + 2, len(sent)))
    if st[ATTEMPTS]:
        idle = next((i for i in window if sent[i] in "04"), None)
        for g in (0, 1):
            if idle is not None:
                send(st, add, g, BATCHES[idle], "sends")
            if st[FAULTS]:
                for i, x in enumerate(sent):
                    if x in "1234":
                        send(st, add, g, BATCHES[i], "copy")
    for i in window:
        if sent[i] in "12":
            add(lambda: f"the producer gives the attempt at {BATCHES[i]} up", SENT, put_digit(sent, BATCHES[i], "4"))


def resolve(sent, g, b, ok):
    """The producer hears from gateway g about b, if it still waits for that."""
    return put_digit(sent, b, "3" if ok else "4") if sent[int(b)] == str(g + 1) else sent


def breaks(st, g, only=(0, 1, 2)):
    """Connections of gateway g to brokers break: what was on them is late, and nobody waits for it."""
    wire, late, sent = st[WIRE][g], st[LATE], st[SENT]
    for i in only:
        for b in wire[i]:
            sent = resolve(sent, g, b, False)
        late = put(late, i, "".join(sorted(set(late[i] + wire[i]))))
        wire = put(wire, i, "")
    return SENT, sent, LATE, late, WIRE, put(st[WIRE], g, wire)


def gateway_steps(st, add):
    at = st[AT]
    for g in (0, 1):
        fenced = g == 1 and st[FENCED]
        if st[VIEW][g] < at or fenced:
            # From the map on that gives a cluster up, a gateway waits for no answer from there.
            add(lambda: f"g{g} has map {at}" + (" and a lease" if fenced else ""), VIEW, put(st[VIEW], g, at), FENCED, st[FENCED] and g != 1, *breaks(st, g, (0,)))
    if st[FAULTS]:
        if not st[FENCED]:
            add(lambda: "the lease of g1 is over", FENCED, True, FAULTS, st[FAULTS] - 1, *breaks(st, 1))
        if any(st[WIRE][0]):
            add(lambda: "the connections of g0 to brokers break", FAULTS, st[FAULTS] - 1, *breaks(st, 0))


def broker_steps(st, off, add, i):
    log = st[LOGS][i]
    if i == 0 and st[ENDS][0] is not None and "returned-seal" not in off:
        return
    for g in (0, 1):
        wire = st[WIRE][g][i]
        if not wire:
            continue
        b, does = wire[0], takes(log, wire[0])
        rest = put(st[WIRE], g, put(st[WIRE][g], i, wire[1:]))
        grown = put(st[LOGS], i, log + b) if does == "new" else st[LOGS]
        add(lambda: f"log {i} has {b} of g{g}: {does}", LOGS, grown, SENT, resolve(st[SENT], g, b, does != "no"), WIRE, rest)
    for k, b in enumerate(st[LATE][i]):
        if takes(log, b) == "new":
            add(lambda: f"late: log {i} has {b}", LOGS, put(st[LOGS], i, log + b), LATE, put(st[LATE], i, st[LATE][i][:k] + st[LATE][i][k + 1:]))


def knows(st, i):
    """The producer's last sequence as an extent knows it, by its log or by what it was told."""
    return max(last(extent(st, i)), last(st[BEFORE]) if i == 0 else NONE)


def look(st, off):
    """What is hidden in the returned extent and before it, what in the head after it, and what is appended again."""
    before, failed, head = st[BEFORE], extent(st, 0), extent(st, 1)
    had = failed if "before" in off else before + failed
    if "late-behind-seal" in off:
        head = st[LOGS][1]
    again = "" if "sent-again" in off else "".join(b for b in had if b in head)
    behind = "".join(b for b in had if again and b > again[-1])
    if not st[WAITS]:
        return again, "", "".join(b for b in failed[st[SEEN]:] if b not in again)
    if behind and "part" not in off:
        return "", again, ""
    return again, "", ""


def controller_steps(st, off, add):
    at, ends = st[AT], st[ENDS]
    held = all(st[VIEW][g] == at and not (at == 3 and st[WIRE][g][1]) or g == 1 and st[FENCED] for g in (0, 1))
    if at == 0:
        add(lambda: "controller: the cluster failed", AT, 1)
    elif at == 1 and held:
        for seen in range(len(st[LOGS][0]) + 1 if not st[WAITS] else 1):
            add(lambda: f"controller: failed over, {seen} batches were seen", AT, 2, SEEN, seen)
    elif at == 2 and ends[0] is None:
        end = len(st[LOGS][0])
        add(lambda: f"controller: the cluster is back, its extent ends at {end}", ENDS, (end if "returned-seal" not in off else None, None),
            *((BACK, look(st, off)) if "returned-seal" in off and st[BACK] is None else ()))
    elif at == 2:
        # Nothing that the returned extent knows can be appended to a head that knows it, too.
        if st[BACK] is None and ("roll" in off or "hold" in off or last(st[LOGS][1]) >= knows(st, 0)):
            back = look(st, off)
            add(lambda: f"controller: restored, {back} hidden, hidden in the head, and appended again", BACK, back)
        if st[BACK] is None and "hold" not in off and "roll" not in off or st[BACK] is not None and "hold" in off:
            add(lambda: "controller: holds the head", AT, 3)
    elif at == 3 and held:
        end, returned, head = len(st[LOGS][1]), knows(st, 0), last(st[LOGS][1])
        told = head if "carry" in off else returned if "carry-head" in off else max(head, returned)
        add(lambda: f"controller: rolled, the head ends at {end}, carried {told}", AT, 4, ENDS, (ends[0], end), TOLD, told)
    elif at == 4 and st[BACK] is None:
        back = look(st, off)
        add(lambda: f"controller: restored, {back} hidden, hidden in the head, and appended again", BACK, back)


def explore(off, attempts, faults, batches, out):
    began = time.process_time()
    first = list(starts(attempts, faults, batches))
    seen = dict.fromkeys(first)
    todo = deque(first)
    finished = 0
    while todo:
        st = todo.popleft()
        bad = wrong(st)
        if bad:
            path = [st]
            while seen[path[-1]] is not None:
                path.append(seen[path[-1]])
            path.reverse()
            out(f"fails after {len(path) - 1} steps ({len(seen)} states, {time.process_time() - began:.1f} s): {bad}; readers " + ("wait" if st[WAITS] else "go on"))
            for a, b in zip(path, path[1:]):
                out("    " + next(label for label, nx in steps(a, off, True) if nx == b))
            return False
        if st[BACK] is not None and not st[SENT].strip("3"):
            finished += 1
        for _, nx in steps(st, off, False):
            if nx not in seen:
                seen[nx] = st
                todo.append(nx)
    out(f"holds in all {len(seen)} states ({finished} of them with everything acknowledged after the restore; {time.process_time() - began:.1f} s)")
    return True


def brief(line):
    """Print all but the steps of a history."""
    if not line.startswith(" "):
        print(line)


def each(attempts, faults, batches):
    """Leave out each rule in turn."""
    held = []
    for rule, text in RULES.items():
        print(f"--break {rule}: {text}")
        if explore({rule}, attempts, faults, batches, brief):
            held.append(rule)
    print("breaks that do not fail: " + ", ".join(held) if held else "every break fails")
    return 1 if held else 0


def main():
    gc.disable()  # there are no cycles, and looking for them takes half of the time
    p = argparse.ArgumentParser(description="explicit-state model of a failover and the restore after it")
    p.add_argument("--attempts", type=int, default=4, help="how often gateways send batches of the producer")
    p.add_argument("--faults", type=int, default=1, help="how many faults there may be")
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
