"""Random faults, for volume: ``python -m tests.model.election.explorer 1000 --seed 7``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from tests.model.election.fleet import Node
from tests.model.election.simulation import LINKS, Simulation
from tests.model.election.sites import Site, Sites, started_sites

__all__ = ["explore"]

_EQUAL = ((2.0, 2.0, 2.0), (2.0, 2.0), (2.0, 2.0, 2.0, 2.0))
_MIXED = ((2.0, 4.0), (2.0, 4.0, 2.0), (1.0, 2.0, 4.0), (4.0, 4.0, 2.0))


def explore(
    sites: Sites,
    seed: int,
    actions: int = 40,
    *,
    replicate: bool = False,
    make: Callable[[Sites, int], Simulation] = Simulation,
) -> Simulation:
    """Run one history and check it.

    Args:
        sites: Three servers.
        seed: Everything follows from it.
        actions: How many things happen.
        replicate: Copy by real replication rather than by DUMP and RESTORE.
        make: Makes the model.
    """
    menu = _REPLICATED if replicate else _ACTIONS
    world = make(sites, seed)
    ttls = world.random.choice(_EQUAL if seed % 2 else _MIXED)
    for ttl in ttls:
        world.join(ttl, wait=world.random.choice((ttl / 5, ttl / 5, 1.5 * ttl)))
    world.run(world.random.choice((0.1, 3.0, 6.0)))
    copies: list[bytes | None] = [None]
    for _ in range(actions):
        world.random.choice(menu)(world, copies)
        longest = max(ttls)
        pauses = (0.0, 0.001, 0.1, 0.34 * longest, 0.9 * longest, 1.02 * longest, 2.1 * longest)
        world.run(world.random.choice(pauses))
    world.must_elect()
    return world


def _any(world: Simulation) -> Node:
    return world.random.choice(world.nodes)


def _leader(world: Simulation) -> Node:
    leading = [node for node in world.nodes if node.leads]
    return leading[0] if leading else _any(world)


def _pause(world: Simulation, _: list[bytes | None]) -> None:
    world.pause(_any(world))


def _resume(world: Simulation, _: list[bytes | None]) -> None:
    for node in list(world.nodes):
        if world.random.random() < 0.7:
            world.resume(node)


def _suspend(world: Simulation, _: list[bytes | None]) -> None:
    world.suspend(_any(world))


def _step_wall(world: Simulation, _: list[bytes | None]) -> None:
    world.step_wall(_any(world), world.random.choice((3600.0, -3600.0, 1.0, -1.0)))


def _link(world: Simulation, _: list[bytes | None]) -> None:
    node = world.random.choice((_any(world), _leader(world)))
    node.link = world.random.choice(LINKS)
    world.note(f"connection of {node.name}: {node.link}")


def _flush(world: Simulation, _: list[bytes | None]) -> None:
    world.random.choice((world.flush, world.delete))()


def _copy(world: Simulation, copies: list[bytes | None]) -> None:
    copies.append(world.copy())


def _replicate(world: Simulation, _: list[bytes | None]) -> None:
    world.replicate(_other_site(world))


def _fail_over_to_what_it_holds(world: Simulation, _: list[bytes | None]) -> None:
    world.fail_over(_other_site(world), keep=True)


def _other_site(world: Simulation) -> Site:
    return world.random.choice([site for site in world.sites.all if site is not world.sites.master])


def _fail_over(world: Simulation, copies: list[bytes | None]) -> None:
    to = _other_site(world)
    how = world.random.choice(("keep", "keep", "old", "fresh"))
    copied = copies[-1] if how == "old" else world.copy()
    world.fail_over(to, keep=how == "keep", copied=copied)


def _stop_or_start(world: Simulation, _: list[bytes | None]) -> None:
    world.stop_or_start(world.random.choice((_any(world), _leader(world))))


def _birth_or_death(world: Simulation, _: list[bytes | None]) -> None:
    if len(world.nodes) > 3:
        world.kill(_any(world))
    elif world.random.random() < 0.5:
        world.fork(_any(world))
    else:
        world.join(_any(world).election.options.ttl)


_Action = Callable[[Simulation, "list[bytes | None]"], None]
_ACTIONS: tuple[_Action, ...] = (
    _pause, _resume, _resume, _suspend, _step_wall, _link, _link, _link, _flush, _copy, _fail_over,
    _fail_over, _stop_or_start, _stop_or_start, _birth_or_death,
)  # fmt: skip

_REPLICATED: tuple[_Action, ...] = (
    *(action for action in _ACTIONS if action not in (_copy, _fail_over)),
    _replicate, _replicate, _fail_over_to_what_it_holds, _fail_over_to_what_it_holds,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--replicate", action="store_true", help="copy by real replication")
    arguments = parser.parse_args()
    began, elections, excused, virtual = time.monotonic(), 0, 0, 0.0
    with started_sites() as sites:
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            world = explore(sites, seed, replicate=arguments.replicate)
            elections += world.judge.elections
            excused += world.judge.excused
            virtual += world.truth.now
    print(
        f"{arguments.runs} runs from seed {arguments.seed}: {elections} elections in "
        f"{virtual:.0f} s of model time, no violation ({excused} leases longer than could be "
        f"known); {time.monotonic() - began:.1f} s"
    )


if __name__ == "__main__":
    main()
