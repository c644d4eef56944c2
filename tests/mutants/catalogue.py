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
_LOOK = "tests/contract/test_store_look.py"
_COLLECTED = "tests/integration/publishing/test_collected.py"
_WARM = "tests/integration/beat/test_warm_standby.py"
_PUBLICATION = "tests/integration/beat/test_publication.py"
_OLDER = "tests/contract/test_older_release.py"
_GIVEN_UP = "tests/integration/beat/test_standing_down.py"
_LEDGER = "celery_safe_leader/_ledger"
_SCRIPTS = f"{_LEDGER}/scripts"
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
    of_election: bool = True
    """Else it is of the ledger."""


def _variant(*names: str) -> tuple[str, ...]:
    return tuple(f"{_VARIANTS}::test_{name}" for name in names)


def _of_ledger(
    name: str, breaks: str, patches: tuple[Patch, ...], tests: tuple[str, ...], reason: str
) -> Mutant:
    named = tuple(f"tests/contract/test_ledger_{test}" for test in tests)
    return Mutant(name, breaks, patches, named, reason, of_election=False)


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
        "hashes of others not named",
        "one that overwrites a leader's record looks like the one that stood there before",
        (
            Patch(
                f"{_LUA}/record.lua",
                "is_named = is_fresh(raw[3] or '')",
                "is_named = true",
            ),
        ),
        _variant("a_hash_of_others_is_told_from_another_one"),
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
        "a resignation is believed whoever led since",
        "a copy of it that is brought back lets a third one in while the second leads",
        (
            Patch(
                f"{_CORE}/observation.py",
                "if record.resigned and record.token < self.highest_token:",
                "if False:",
            ),
        ),
        _variant("a_resignation_that_is_brought_back_is_observed_anew"),
    ),
    Mutant(
        "a version stays one's own after another was seen",
        "a copy of the own record that is brought back is taken while another one leads",
        (
            Patch(
                f"{_CORE}/observation.py",
                "        if record.version != self._own_version:\n",
                "        if False:\n",
            ),
        ),
        _variant("the_own_record_is_observed_anew_once_it_was_gone"),
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
    Mutant(
        "unprefixed key",
        "with `global_keyprefix`, runs are recorded whose messages lie in a list that nobody reads",
        (
            Patch(
                "celery_safe_leader/_publishing/collector.py",
                "        written = self._prefix_args((command, key))[1] "
                "if self._prefix_args is not None else key\n",
                "        written = key\n",
            ),
        ),
        (f"{_COLLECTED}::test_a_key_has_the_prefix_of_the_brokers_client",),
        reason="a key without the broker's prefix",
        of_election=False,
    ),
    Mutant(
        "a run that was claimed goes out as `once`",
        "workers run it beside the message that was out already",
        (
            Patch(
                "celery_safe_leader/_publishing/sender.py",
                "nonces = [uuid.uuid4().hex for _ in group]",
                'nonces = [f"once-{uuid.uuid4().hex}" for _ in group]',
            ),
            Patch(
                "celery_safe_leader/_publishing/sender.py",
                "        nonce = uuid.uuid4().hex\n",
                '        nonce = f"once-{uuid.uuid4().hex}"\n',
            ),
        ),
        (
            f"{_PUBLICATION}::test_a_run_that_is_settled_has_no_effect_beside_the_message_that_was"
            "_out_already",
            f"{_PUBLICATION}::test_a_run_that_somebody_has_claimed_is_settled",
        ),
        "AssertionError",
        of_election=False,
    ),
    Mutant(
        "a leader passes over an enrolment that finds another run",
        "the entry sleeps for the whole tenure",
        (
            Patch(
                "celery_safe_leader/_dispatch/memory/memory.py",
                "                differing.add(enrolment.entry)\n",
                "                pass\n",
            ),
        ),
        (f"{_PUBLICATION}::test_an_entry_of_which_the_ledger_knows_more_goes_on_from_there",),
        "not within",
        of_election=False,
    ),
    *(
        Mutant(
            f"the {what} of a standby's copy is not compared",
            "a copy that is ahead lets an entry sleep",
            (
                Patch(
                    "celery_safe_leader/_dispatch/memory/standby_copy.py",
                    f"        if found.{what} != noted.{what}:\n",
                    "        if False:\n",
                ),
            ),
            (f"{_WARM}::test_a_copy_that_is_ahead_of_{ahead_of}_lets_no_entry_sleep",),
            "the entry sleeps",
            of_election=False,
        )
        for what, ahead_of in (
            ("epoch", "a_promoted_replica"),
            ("mark", "a_moment_that_was_set_back"),
        )
    ),
    _of_ledger(
        "messages are pushed before the sentinel is written",
        "a server that refuses the record has the message already, and gets it again",
        (
            Patch(f"{_SCRIPTS}/publish.lua", "leave(ARGV[6])\n", ""),
            Patch(
                f"{_SCRIPTS}/publish.lua",
                "if #recorded > 0 then\n  redis.call('HSET', KEYS[2]",
                "leave(ARGV[6])\nif #recorded > 0 then\n  redis.call('HSET', KEYS[2]",
            ),
            Patch(
                f"{_SCRIPTS}/publish.lua",
                "if plain and #refused == 0 then\n",
                "if plain and #refused == 0 then\n  leave(ARGV[6])\n",
            ),
        ),
        ("sick_server.py::test_a_run_that_may_not_be_recorded_is_not_pushed",),
        "AssertionError",
    ),
    _of_ledger(
        "only the last attempt of a batch counts after a loss",
        "what an earlier attempt published is published again",
        (
            Patch(
                f"{_LEDGER}/ledger_session.py",
                "step not in recorded for step in steps)",
                "step not in recorded for step in [*steps][-1:])",
            ),
        ),
        ("publish.py::test_a_later_attempt_does_not_hide_what_an_earlier_one_did",),
        "AssertionError",
    ),
    _of_ledger(
        "the sentinel shows the last step alone",
        "what was executed before it is published again after a loss",
        (Patch(f"{_SCRIPTS}/guard.lua", "state.steps = executed_steps()", "state.steps = ''"),),
        ("publish.py::test_a_later_attempt_does_not_hide_what_an_earlier_one_did",),
        "AssertionError",
    ),
    _of_ledger(
        "the sentinels are not read before an adoption that restores",
        "an adoption whose reply is lost hides what was published",
        (
            Patch(
                f"{_LEDGER}/ledger_session.py",
                "            self._note_sentinels(*self._read_sentinels())\n",
                "            pass\n",
            ),
        ),
        ("publish.py::test_an_adoption_without_a_reply_hides_nothing",),
        "AssertionError",
    ),
    _of_ledger(
        "a request is repeated under the same step",
        "a lost reply looks like a lost ledger",
        (
            Patch(
                f"{_LEDGER}/ledger_session.py",
                "        self._step += 1  #",
                "        self._step = self._floor + 1  #",
            ),
        ),
        ("publish.py::test_a_batch_without_a_reply_is_repeated_under_a_new_step",),
        "GenerationChangedError",
    ),
    _of_ledger(
        "the mark stays when a moment is set back",
        "a copy that is ahead lets an entry sleep",
        (
            Patch(
                f"{_LEDGER}/ledger.py",
                'return args, self._session.renewal() if sets_back else ""',
                'return args, ""',
            ),
        ),
        ("marks.py::test_a_moment_that_is_set_back_renews_the_mark",),
        "AssertionError",
    ),
    _of_ledger(
        "a ledger without a mark gets none",
        "what an older release set back goes unnoticed",
        (
            Patch(
                f"{_SCRIPTS}/adopt.lua",
                "raws[2] == raws[3] and known.mark ~= '' then",
                "raws[2] == raws[3] then",
            ),
        ),
        ("marks.py::test_a_ledger_that_an_older_release_led_gets_a_new_mark",),
        "AssertionError",
    ),
    _of_ledger(
        "an enrolment that finds another run says that it is written",
        "a leader goes on from a run that nobody recorded",
        (
            Patch(
                f"{_SCRIPTS}/enrol.lua",
                "letters[n] = found[n] == run and 'W' or 'D'",
                "letters[n] = 'W'",
            ),
        ),
        ("write.py::test_an_enrolment_that_finds_another_run_says_so",),
        "AssertionError",
    ),
    _of_ledger(
        "a pause that has run out goes on",
        "nothing is published any more, and nobody knows why",
        (
            Patch(
                f"{_SCRIPTS}/sentinel.lua",
                "pause.on and pause.ends ~= '0' and now_us() >= tonumber(pause.ends)",
                "false",
            ),
        ),
        ("publish.py::test_a_pause_that_has_run_out_is_over",),
        "LedgerPausedError",
    ),
    Mutant(
        "a pause that ran out under an older release stays",
        "that release dispatches nothing, for ever",
        (
            Patch(
                f"{_SCRIPTS}/pause.lua",
                "local was_on = state.pause and state.pause.on\nend_pause(state.pause)\n",
                "local was_on = state.pause and state.pause.on\n",
            ),
        ),
        (f"{_OLDER}::test_a_pause_that_ran_out_under_the_older_one_is_ended_by_whoever_sees_it",),
        "AssertionError",
        of_election=False,
    ),
    Mutant(
        "an adoption keeps a pause that has run out",
        "whoever is elected after it, of an older release, dispatches nothing",
        (Patch(f"{_SCRIPTS}/adopt.lua", "end_pause(pause)\n\n-- A mark", "\n-- A mark"),),
        (f"{_OLDER}::test_a_pause_that_has_run_out_is_ended_by_an_adoption",),
        "AssertionError",
        of_election=False,
    ),
    _of_ledger(
        "a pause stops settling",
        "the record of who accepted a run may expire before it is asked for",
        (
            Patch(
                f"{_SCRIPTS}/settle.lua",
                "local refusal = guard()\n",
                "local refusal = guard()\n"
                "if state and state.pause and state.pause.on then\n"
                "  return {'PAUSED', state.pause.number, state.pause.ends, now_us()}\n"
                "end\n",
            ),
        ),
        ("publish.py::test_what_is_pending_is_settled_in_a_pause",),
        "LedgerPausedError",
    ),
    _of_ledger(
        "a pause is set while an older release leads",
        "it publishes through the pause, and writes over it",
        (
            Patch(
                f"{_SCRIPTS}/pause.lua",
                "if not ends_only and state.mark == '' then",
                "if false then",
            ),
        ),
        ("pause.py::test_a_leader_of_an_older_release_is_not_paused",),
        "DID NOT RAISE",
    ),
    Mutant(
        "a look at the ledger may fail the renewal",
        "a key of the ledger that holds something else costs the lease",
        (Patch(f"{_LUA}/renew.lua", "redis.pcall('HGET'", "redis.call('HGET'"),),
        (f"{_LOOK}::test_nothing_that_the_ledgers_keys_hold_costs_the_lease",),
        "WRONGTYPE",
        of_election=False,
    ),
    Mutant(
        "a renewal whose look is refused is not sent without it",
        "a user who may not read the ledger, or a slot that migrates, costs the lease",
        (
            Patch(
                "celery_safe_leader/_store/commands.py",
                "        except _TOO_MANY_KEYS as exc:\n",
                "        except () as exc:\n",
            ),
        ),
        (f"{_LOOK}::test_a_user_that_may_not_read_the_ledger_renews_at_once_without_a_look",),
        "StoreRefusedError",
        of_election=False,
    ),
    Mutant(
        "a look at an older copy of the ledger passes",
        "a ledger that was rolled back goes unnoticed until something is due",
        (
            Patch(
                "celery_safe_leader/_ledger/ledger_session.py",
                "return is_as_paused and self._floor <= sentinel.step <= self._step",
                "return is_as_paused",
            ),
        ),
        (f"{_LOOK}::test_what_was_lost_or_rolled_back_does_not_look_as_it_was_left",),
        "AssertionError",
        of_election=False,
    ),
    Mutant(
        "work that was given up may go on under the same token",
        "two threads of one process publish the same runs",
        (
            Patch(
                "celery_safe_leader/beat.py",
                "return self._dispatcher is dispatcher and leader.fencing_token == token",
                "return leader.fencing_token == token",
            ),
        ),
        (
            f"{_GIVEN_UP}::test_work_that_was_given_up_writes_nothing_even_if_the_process_still_leads",
        ),
        "two would write under one token",
        of_election=False,
    ),
)
