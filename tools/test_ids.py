"""Says what became of each test, and counts assertions, between a revision and the tree.

    pytest --collect-only -q -m "" > new.txt          # and old.txt, at the old revision
    python tools/test_ids.py ids OLD_REVISION old.txt new.txt [reasons.tsv] > test_ids.tsv
    python tools/test_ids.py assertions OLD_REVISION

``ids`` prints *old id, new id, how* for each old test, and fails if one is neither found nor given
a reason. A test is looked for in the file that git says its file became, then in any file; by its
name with its parameters, then by its name alone, parameters in their order, and in the end by its
name with any number of parameters. Lines of the file of reasons are *old id or its beginning, new
id or its beginning, reason*; those since 5d6b9fc are in ``test_ids_since_5d6b9fc.tsv`` beside this
file. It fails as well if a reason names a new test that is not there.

``assertions`` counts asserts, ``pytest.raises``/``warns``/``fail`` and calls of helpers whose name
begins with ``assert`` or ``check``, by ``ast``, and fails if there are fewer than before.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

Found = dict[str, tuple[str, str]]
"""Old id -> new id and how it was found, or empty and the reason."""


def git(*arguments: str) -> str:
    """Run git in the current folder, and return what it says."""
    command = ["git", "-c", "core.quotepath=off", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def read_ids(path: str) -> list[str]:
    """Read the ids in what ``pytest --collect-only -q`` printed."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("tests/") and "::" in line]


def renames(revision: str) -> dict[str, str]:
    """Read from git which file became which."""
    listed = git("diff", "-M40%", "-l8000", "--name-status", revision)
    rows = [line.split("\t") for line in listed.splitlines()]
    return {row[1]: row[2] for row in rows if row[0].startswith("R")}


def name_of(identity: str) -> str:
    """Return the name of the function, without file and parameters."""
    return identity.partition("::")[2].partition("[")[0]


def match(old: list[str], new: list[str], moved: dict[str, str]) -> Found:
    """Find each old test among the new ones."""
    found: Found = {}
    free = dict.fromkeys(new)
    places: dict[str, list[str]] = defaultdict(list)
    for identity in new:
        places[identity.partition("::")[2]].append(identity)

    def take(before: str, after: str, how: str) -> None:
        found[before] = (after, how)
        del free[after]

    for identity in old:
        file, _, rest = identity.partition("::")
        after = f"{moved.get(file, file)}::{rest}"
        if after in free:
            take(identity, after, "same" if after == identity else "moved")
    renamed = {Path(before).name: Path(after).name for before, after in moved.items()}
    for identity in old:
        file, _, rest = identity.partition("::")
        name, _, given = rest.removesuffix("]").partition("[")
        given = moved.get(given) or renamed.get(given) or given
        after = f"{moved.get(file, file)}::{name}[{given}]"
        if identity not in found and after in free:
            take(identity, after, "other words in its parameters")
    for identity in old:
        if identity not in found:
            homes = [each for each in places[identity.partition("::")[2]] if each in free]
            if len(homes) == 1:
                take(identity, homes[0], "moved to another file")
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for identity in free:
        groups[identity.partition("::")[0], name_of(identity)].append(identity)
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for identity in old:
        if identity not in found:
            file = identity.partition("::")[0]
            missing[moved.get(file, file), name_of(identity)].append(identity)
    for place, before in missing.items():
        if len(before) == len(groups[place]):
            for one, other in zip(before, groups[place], strict=True):
                take(one, other, "other words in its parameters")
    return found


def by_function(identity: str, old: list[str], new: list[str]) -> tuple[str, str] | None:
    """Return the one function of an old test's name among the new ones, and what is other."""
    name = name_of(identity)
    homes = {each.partition("[")[0] for each in new if name_of(each) == name}
    if len(homes) != 1:
        return None
    function = identity.partition("[")[0]
    before = sum(each.partition("[")[0] == function for each in old)
    now = sum(name_of(each) == name for each in new)
    return homes.pop(), f"other parameters: {before} before, {now} now"


def reasons(path: str) -> list[tuple[str, str, str]]:
    """Read beginnings of old ids with the new id, if there is one, and the reason."""
    rows = [line.split("\t") for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def compare(revision: str, old: str, new: str, known: str = "") -> int:
    """Print what became of each test, and return 1 if that is not known of one."""
    before, now = read_ids(old), read_ids(new)
    found = match(before, now, renames(revision))
    given = reasons(known) if known else []
    gone = [
        after for _, after, _ in given if after and not any(each.startswith(after) for each in now)
    ]
    for identity in before:
        if identity not in found:
            found[identity] = (
                next(
                    (
                        (after, f"reason: {why}")
                        for start, after, why in given
                        if identity.startswith(start)
                    ),
                    None,
                )
                or by_function(identity, before, now)
                or ("", "MISSING")
            )
        print(identity, *found[identity], sep="\t")
    count = Counter(how.partition(":")[0] for _, how in found.values())
    print(f"{len(before)} tests: {dict(count)}", file=sys.stderr)
    for after in gone:
        print(f"a reason names {after}, which is not there", file=sys.stderr)
    return 1 if count["MISSING"] or gone else 0


def assertions(sources: Iterable[str]) -> Counter[str]:
    """Count what can fail a test in these sources."""
    count: Counter[str] = Counter()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Assert):
                count["assert"] += 1
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                last = called.rpartition(".")[2]
                if called in ("pytest.raises", "pytest.warns", "pytest.fail"):
                    count[called] += 1
                elif last.startswith(("assert", "check")):
                    count["helpers"] += 1
    return count


def count_assertions(revision: str) -> int:
    """Print the counts before and after, and return 1 if there are fewer than before."""
    listed = git("ls-tree", "-r", "--name-only", revision, "--", "tests").splitlines()
    before = assertions(git("show", f"{revision}:{n}") for n in listed if n.endswith(".py"))
    after = assertions(path.read_text(encoding="utf-8") for path in Path("tests").rglob("*.py"))
    for kind in sorted(before | after):
        print(f"{kind:<16}{before[kind]:>7}{after[kind]:>7}")
    print(f"{'all':<16}{before.total():>7}{after.total():>7}")
    return 1 if after.total() < before.total() else 0


if __name__ == "__main__":
    if sys.argv[1] == "ids":
        sys.exit(compare(*sys.argv[2:]))
    sys.exit(count_assertions(*sys.argv[2:]))
