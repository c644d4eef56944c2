"""The mutants: each takes one rule out of the real files.

A patch is a text that must stand in its file exactly once. So a change of the code that moves a
rule breaks the patch, and somebody has to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTANTS", "Mutant", "Patch", "PatchError"]

_LUA = "celery_safe_leader/_store/scripts"
_CORE = "celery_safe_leader/_core"
_VARIANTS = "tests/model/election/test_unsafe_variants.py"
_STORES = "tests/contract/test_store_servers.py"
TWO_LEAD = "two lead at once"


class PatchError(Exception):
    """The code is not what the mutant was written for."""


@dataclass(frozen=True)
class Patch:
    """One replacement in one file."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Change the file below ``root``.

        Raises:
            PatchError: The text is not there, or more than once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1:
            raise PatchError(
                f"{self.file} has {count} times, not once, the text {self.old!r}: the rule was "
                "moved or reworded, so adapt tests/mutants/catalogue.py to it"
            )
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """One unsafe variant."""

    name: str
    """What is left out, as in a sentence."""
    breaks: str
    """What goes wrong then."""
    patches: tuple[Patch, ...]
    tests: tuple[str, ...]
    """Tests that must fail, by file and name, with all their parameters."""
    reason: str = TWO_LEAD
    """What each of them must say."""


def _variant(*names: str) -> tuple[str, ...]:
    return tuple(f"{_VARIANTS}::test_{name}" for name in names)


MUTANTS = (
    Mutant(
        "no epoch in the version",
        "after a failover, a standby counts its observation of the old master on",
        (
            Patch(
                f"{_LUA}/record.lua",
                "    epoch, record.epoch, raw[2] or ''",
                "    raw[2] or ''",
            ),
        ),
        _variant(
            "a_record_that_a_stale_replica_shows_is_observed_anew",
            "a_server_that_is_promoted_again_with_its_old_record_is_observed_anew",
        ),
    ),
    Mutant(
        "only the record's epoch in the version, not the server's",
        "a server that is promoted again shows the version that it showed long ago",
        (
            Patch(
                f"{_LUA}/record.lua",
                "    epoch, record.epoch, raw[2] or ''",
                "    record.epoch, raw[2] or ''",
            ),
        ),
        _variant("a_server_that_is_promoted_again_with_its_old_record_is_observed_anew"),
    ),
    Mutant(
        "vacancies not named",
        "a second loss of data looks like the first",
        (
            Patch(
                f"{_LUA}/record.lua",
                "write(key, epoch, '', token_of(token), fresh(nonce), tonumber(longest_ttl))",
                "write(key, epoch, '', token_of(token), '', tonumber(longest_ttl))",
            ),
        ),
        _variant("a_second_loss_of_data_is_told_from_the_first"),
    ),
    Mutant(
        "a vacancy is taken with its name kept",
        "a record that its leader took back looks like the vacancy still",
        (
            Patch(
                f"{_LUA}/campaign.lua",
                "record = write(KEYS[1], epoch, ARGV[2], token, fresh(ARGV[3]), tonumber(ARGV[4]))",
                "local kept = record.holder == '' and redis.call('HGET', KEYS[1], 'renewal')\n"
                "record = write(KEYS[1], epoch, ARGV[2], token, kept or fresh(ARGV[3]), "
                "tonumber(ARGV[4]))",
            ),
        ),
        _variant("a_vacancy_that_was_taken_back_does_not_look_untouched"),
    ),
    Mutant(
        "the deadline counts from the reply",
        "a slow reply makes the lease longer than anybody else knows",
        (
            Patch(
                f"{_CORE}/election.py",
                "deadline = request.sent_at.plus(self.options.lease_length)",
                "deadline = now.plus(self.options.lease_length)",
            ),
        ),
        _variant("a_lease_counts_from_before_the_sending"),
        reason="leads for longer than its ttl",
    ),
    Mutant(
        "the observation counts from the sending",
        "a slow look makes a fresh renewal look old",
        (
            Patch(
                f"{_CORE}/election.py",
                "self._observed(reply, now, confirmed=request.confirm and reply.confirmed)",
                "self._observed(\n"
                "                reply, request.sent_at, "
                "confirmed=request.confirm and reply.confirmed\n            )",
            ),
        ),
        _variant("an_observation_counts_from_after_the_answer"),
    ),
    Mutant(
        "a standby waits for its own ttl only",
        "a leader with a longer ttl is overtaken",
        (
            Patch(
                f"{_CORE}/observation.py",
                "        self.longest_ttl = max(self.longest_ttl, min(record.ttl, MAX_TTL))\n",
                "",
            ),
        ),
        _variant(
            "a_standby_waits_for_the_longest_lease_it_saw",
            "a_vacancy_carries_the_longest_lease_that_its_writer_saw",
        ),
    ),
    Mutant(
        "a campaign does not compare before it sets",
        "two standbys that waited equally long both win",
        (
            Patch(
                f"{_LUA}/campaign.lua",
                "if record.version ~= ARGV[1] then",
                "if false then",
            ),
        ),
        _variant("only_one_of_two_campaigns_for_the_same_version_wins"),
    ),
    Mutant(
        "no margin between leaving and taking",
        "a fast clock overtakes a slow one",
        (Patch(f"{_CORE}/options.py", "MARGIN = 0.01\n", "MARGIN = 0.0\n"),),
        _variant("clocks_that_run_half_a_percent_apart_from_true_time_do_no_harm"),
    ),
    Mutant(
        "an inherited resignation is honoured",
        "a resignation repeated at a stale copy lets a third one in while the second leads",
        (
            Patch(f"{_LUA}/resign.lua", " or record.epoch ~= epoch then", " then"),
            Patch(
                f"{_LUA}/record.lua",
                "record.resigned and (record.epoch == epoch and 1 or ELSEWHERE) or 0",
                "record.resigned and 1 or 0",
            ),
        ),
        _variant(
            "a_resignation_that_is_repeated_at_an_inherited_record_lets_nobody_in",
            "a_resignation_that_came_with_a_copy_lets_nobody_in",
        ),
    ),
    Mutant(
        "WAIT on another connection",
        "replicas that stand still seem to confirm",
        (
            Patch(
                "celery_safe_leader/_store/sync.py",
                "        for command in step.commands:\n"
                "            pipeline.execute_command(*command)\n"
                "        return pipeline.execute(raise_on_error=False)",
                "        pipeline.execute_command(*step.commands[0])\n"
                "        raw = pipeline.execute()[0]\n"
                "        return [raw, self._waiting_client.execute_command(*step.commands[1])]",
            ),
            Patch(
                "celery_safe_leader/_store/aio.py",
                "        for command in step.commands:\n"
                "            pipeline.execute_command(*command)\n"
                "        return await pipeline.execute(raise_on_error=False)",
                "        pipeline.execute_command(*step.commands[0])\n"
                "        raw = (await pipeline.execute())[0]\n"
                "        wait = step.commands[1]\n"
                "        return [raw, await self._waiting_client.execute_command(*wait)]",
            ),
        ),
        (f"{_STORES}::test_a_replica_that_stands_still_confirms_nothing",),
        reason="confirmed=True",
    ),
)
