# Short names of long commands; `just --list` shows them.

# The long form of the faults: one every half minute for an hour, with a report in the docs.
soak minutes="60" report="docs/soak.md":
    cargo faults --soak {{minutes}} --report {{report}}

# Every fault with three seeds, and the page they make.
faults:
    cargo faults --write docs/faults.md

# Every row and every curve, beside Go's `router` and `trafficcontroller` in a directory: two hours.
performance go:
    cargo load table --go {{go}} --write docs/performance.md
    cargo load curves --go {{go}} --runs 3 --write docs/scaling.md

# The release archive, in target/dist: static binaries, docs, what they are deployed with.
release:
    deploy/release
