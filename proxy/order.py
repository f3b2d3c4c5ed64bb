"""Writes order.txt: names of functions, those first that run when weir-proxy starts, then those that serve requests.

  order.py PROGRAM START,START... SERVING,SERVING... > order.txt

PROGRAM is a release build with its symbols. The rest are profiles of it by
`valgrind --tool=callgrind --demangle=no`, for both sidecars of a pair: written with `vgdb --pid=PID dump` once they
listen, and again after requests of every kind. Names that the program does not have do no harm, so it need not be
done for each change: when `weir-bench instructions --only weight` shows that memory has grown.

What differs between builds in a name is replaced by `*`. Where that covers much that does not run, the name goes last.
"""

import collections
import re
import subprocess
import sys

# Of the bytes that a name covers, how many must run for it to be among the first.
RUNS = 0.3


def pattern(symbol):
    symbol = re.sub(r"\.llvm\.\d+$", "", symbol)
    symbol = re.sub(r"17h[0-9a-f]{16}E", "17h*E", symbol)
    return re.sub(r"Cs[0-9A-Za-z]{5,}_", "Cs*_", symbol)


def sizes(program):
    listed = subprocess.run(["nm", "--print-size", "--radix=d", program], capture_output=True, text=True, check=True)
    symbols = (line.split() for line in listed.stdout.splitlines())
    return {symbol[3]: int(symbol[1]) for symbol in symbols if len(symbol) == 4 and symbol[2] in "tTwW"}


def ran(profiles):
    functions = {}
    for profile in profiles:
        names = {}
        with open(profile, encoding="utf-8") as lines:
            for line in lines:
                found = re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line)
                if found:
                    if found[2]:
                        names[found[1]] = found[2].split("'")[0]
                    functions[names.get(found[1])] = None
    return functions


def main(program, *phases):
    size_of = sizes(program)
    covered = collections.Counter()
    for symbol, size in size_of.items():
        covered[pattern(symbol)] += size
    first, last = {}, {}
    for phase in phases:
        running = collections.Counter()
        for symbol in ran(phase.split(",")):
            running[pattern(symbol or "")] += size_of.get(symbol, 0)
        for name, size in running.items():
            if size and name not in first:
                (first if size >= RUNS * covered[name] else last).setdefault(name)
    for name in [*first, *(name for name in last if name not in first)]:
        print(name)


main(*sys.argv[1:])
