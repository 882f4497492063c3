"""What can go wrong, what becomes of it, and the test that shows it: docs/reliability.md is made of this.

python -m tests.faults.table        writes the page anew
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
WORKERS, LINKS, HOSTS, STORES, HOSTILE = (
    f"tests/faults/test_{name}.py" for name in ("workers", "links", "hosts", "stores", "hostile")
)
SLOW = "tests/slow/test_faults.py"
LAB, SLOW_LAB = "tests/integration/test_lab.py", "tests/slow/test_lab.py"
REASONS, BROKEN, SURVIVAL = (f"tests/integration/test_{name}.py" for name in ("reasons", "broken_links", "survival"))
PATIENCE = "tests/slow/test_patience.py"


@dataclass(frozen=True)
class Fault:
    """One of them. `status` and `reason` are the case's, None where there is none to speak of; `exit_code` bench's."""

    kind: str
    fault: str
    happens: str
    status: str | None
    reason: str | None
    exit_code: int
    test: str


# fmt: off
FAULTS: Sequence[Fault] = (
    Fault("Models and workers", "a worker is killed, as the kernel does it for want of memory",
          "the case ends with the signal and its stage, and, where the kernel counts it, that memory was short; the"
          " agent and the other cases go on",
          "CRASHED", "worker_died", 3, f"{WORKERS}::test_a_worker_that_is_killed"),
    Fault("Models and workers", "an allocation fails",
          "the case ends with its stage",
          "FAILED", "load_failed", 3, f"{WORKERS}::test_a_worker_that_takes_all_memory"),
    Fault("Models and workers", "a delegate or runtime crashes while it loads, or later",
          "the case ends with the signal and its stage",
          "CRASHED", "worker_died", 3, f"{WORKERS}::test_a_worker_with_a_fault_of_its_own"),
    Fault("Models and workers", "a delegate or model never returns",
          "ended at the job's deadline from outside; the next case runs",
          "TIMEOUT", "timed_out", 3, f"{WORKERS}::test_a_worker_that_hangs"),
    Fault("Models and workers", "a worker stands still (SIGSTOP)",
          "ended at the job's deadline",
          "TIMEOUT", "timed_out", 3, f"{WORKERS}::test_a_worker_that_is_stopped"),
    Fault("Models and workers", "a model hangs while it is scored",
          "the first Ctrl-C ends it",
          None, None, 130, f"{SURVIVAL}::test_ctrl_c_while_a_model_hangs_in_scoring"),
    Fault("Models and workers", "a runtime floods stdout and stderr",
          "dropped, but for the last lines of its log",
          "OK", None, 0, f"{WORKERS}::test_a_worker_that_floods_its_streams"),
    Fault("Models and workers", "a runtime leaves processes behind",
          "they end with their worker",
          "OK", None, 0, f"{WORKERS}::test_a_worker_that_leaves_children"),
    Fault("Models and workers", "a runtime writes a file without end",
          "it ends at 4 GiB",
          "FAILED", "load_failed", 3, f"{WORKERS}::test_a_worker_that_writes_without_end"),
    Fault("Models and workers", "a model file is cut, turned or exchanged",
          "parsed in the worker alone; the agent lives",
          "FAILED", "load_failed", 3, f"{HOSTILE}::test_models_that_are_broken"),
    Fault("Models and workers", "an accelerator was asked for, and the CPU ran",
          "red in the table; `--require-full-delegation` makes it exit code 1",
          "FALLBACK", "fallback", 3,
          "tests/integration/test_delegates.py::test_lies_about_placement_through_the_command_line"),
    Fault("Models and workers", "outputs are NaN",
          "not ranked",
          "INVALID", "output_nan", 3, f"{WORKERS}::test_outputs_that_are_no_numbers"),
    Fault("Models and workers", "a latency is 0",
          "not ranked: 0 never is a latency",
          "INVALID", "implausible_latency", 3, f"{REASONS}::test_a_latency_of_nothing"),
    Fault("Models and workers", "the device throttles",
          "not ranked",
          "INVALID", "throttled", 3, "tests/integration/test_conditions.py::test_throttled_is_invalid"),
    Fault("Models and workers", "the battery charges while its energy is measured",
          "the energy is invalid, the latency stands",
          "OK", "charging", 0,
          "tests/integration/test_energy.py::test_a_battery_that_charges_is_refused_unless_its_supply_is_outside"),
    Fault("Models and workers", "the model's file on the host goes while it is measured",
          "what was asked for is on the device",
          "OK", None, 0, f"{WORKERS}::test_a_model_that_changes_while_it_is_measured"),
    Fault("Agents and devices", "the agent is killed",
          "started again, once; the case is measured anew and says `attempt: 2`",
          "OK", None, 0, f"{WORKERS}::test_an_agent_that_is_killed"),
    Fault("Agents and devices", "the agent dies again and again",
          "given up after the second time",
          "LOST", "device_lost", 3, f"{WORKERS}::test_an_agent_that_dies_again_and_again"),
    Fault("Agents and devices", "the device starts anew in the middle",
          "its case is lost; `--resume` measures what is missing",
          "LOST", "device_lost", 3, f"{BROKEN}::test_a_device_that_was_started_anew"),
    Fault("Agents and devices", "the device started anew between two processes",
          "not ranked",
          "INVALID", "rebooted", 3, f"{REASONS}::test_a_device_that_started_anew_between_processes"),
    Fault("Agents and devices", "the device vanishes, or its agent hangs, for good",
          "waited for, three minutes; other devices do not wait",
          "LOST", "device_lost", 3, f"{PATIENCE}::test_a_device_that_does_not_come_back"),
    Fault("Agents and devices", "the device's clock is an hour off",
          "durations are monotonic, times of results the host's",
          "OK", None, 0, f"{WORKERS}::test_a_clock_that_is_an_hour_off"),
    Fault("Agents and devices", "the device's clock jumps while it measures",
          "not ranked",
          "INVALID", "clock_jumped", 3, f"{REASONS}::test_clocks_and_memory_that_lie"),
    Fault("Agents and devices", "the device's disk is full",
          "seen before anything is sent, in numbers; old blobs that no job uses go first",
          "FAILED", "load_failed", 3, f"{SURVIVAL}::test_no_space_on_the_device"),
    Fault("Agents and devices", "a blob in the device's cache was altered",
          "hashed when an agent first uses it: sent again",
          "OK", None, 0, f"{WORKERS}::test_a_blob_that_was_altered"),
    Fault("Agents and devices", "the work folder is read-only",
          "said with the folder's name",
          "SKIPPED", "not_available", 3, f"{HOSTS}::test_a_work_folder_that_cannot_be_used"),
    Fault("Agents and devices", "nothing may be executed in the work folder (noexec)",
          "`bench devices check` says so, and where it is mounted",
          None, None, 3, "tests/integration/test_devices.py::test_a_workdir_that_runs_nothing"),
    Fault("Agents and devices", "another run has the device",
          "told who and until when, at once",
          "SKIPPED", "device_busy", 3, f"{HOSTS}::test_a_device_that_another_run_has"),
    Fault("Agents and devices", "a host with another store has the device",
          "the lease on the device tells",
          "SKIPPED", "device_busy", 3,
          "tests/integration/test_security.py::test_the_second_host_is_told_who_and_for_how_long"),
    Fault("Agents and devices", "a job is longer than a lease, and renewals do not get through",
          "the running job renews it",
          "OK", None, 0, f"{SLOW}::test_a_lease_that_is_shorter_than_a_job"),
    Fault("Agents and devices", "the agent speaks another protocol",
          "refused, with both versions",
          "SKIPPED", "not_available", 3, f"{HOSTILE}::test_an_agent_of_another_protocol"),
    Fault("Agents and devices", "an agent of another build holds the home",
          "an idle one makes room at once; one with a lease is busy",
          None, None, 3, "tests/integration/test_handover.py::test_an_agent_of_another_build_makes_room"),
    Fault("Agents and devices", "the agent does not accept the session's token",
          "refused before anything is read",
          "SKIPPED", "not_available", 3, f"{HOSTILE}::test_an_agent_with_another_token"),
    Fault("Agents and devices", "somebody else listens at the agent's port",
          "the token proves that it is not ours",
          "SKIPPED", "not_available", 3, f"{HOSTILE}::test_an_agent_behind_a_port_that_is_somebody_elses"),
    Fault("Agents and devices", "in place of a handshake comes something else, or nothing",
          "shown in a line, escaped",
          "SKIPPED", "not_available", 3, f"{HOSTILE}::test_a_handshake_that_is_none"),
    Fault("Agents and devices", "the agent answers what cannot be",
          "refused or cut before anything is made of it",
          "LOST", "device_lost", 3, f"{HOSTILE}::test_an_agent_that_answers_anything"),
    Fault("Agents and devices", "the worker reports what cannot be",
          "the case fails in stage `report`",
          "FAILED", "run_failed", 3, f"{HOSTILE}::test_a_worker_that_says_anything"),
    Fault("Links", "the link is cut while a model is sent",
          "sent on from where it stopped, the hash is checked",
          "OK", None, 0, f"{LINKS}::test_a_link_that_is_cut_while_a_model_is_sent"),
    Fault("Links", "the link is cut while it measures",
          "the job runs on, and is collected over a new link; nothing is measured twice",
          "OK", None, 0, f"{LINKS}::test_a_link_that_is_cut_while_it_measures"),
    Fault("Links", "the link is silent for seconds",
          "nothing is lost",
          "OK", None, 0, f"{LINKS}::test_a_link_that_is_silent_for_a_moment"),
    Fault("Links", "the link is silent for two minutes",
          "noticed by pings after 20 s, and waited for",
          "OK", None, 0, f"{PATIENCE}::test_a_link_that_is_silent_for_two_minutes"),
    Fault("Links", "a byte of a model is spoilt on the way",
          "its hash differs: not kept, sent again",
          "OK", None, 0, f"{LINKS}::test_a_byte_that_is_spoilt_on_the_way"),
    Fault("Links", "the adb server is restarted",
          "its forwards are made anew",
          "OK", None, 0, f"{LINKS}::test_an_adb_server_that_is_restarted"),
    Fault("Links", "the adb server never answers, or answers garbage",
          "given up after its deadline; other devices do not wait",
          "SKIPPED", "not_available", 3, f"{LINKS}::test_an_adb_server_that_is_no_help"),
    Fault("Links", "a phone is offline, unauthorized or without permissions",
          "what to do about it",
          "SKIPPED", "not_available", 3, f"{LINKS}::test_an_adb_server_that_is_no_help"),
    Fault("Links", "a phone does not know this computer",
          "what to do about it",
          "SKIPPED", "not_available", 3, f"{LINKS}::test_a_phone_that_does_not_know_this_computer"),
    Fault("Links", "an SSH server shows another key",
          "refused before anything is sent",
          "SKIPPED", "not_available", 3, f"{LINKS}::test_an_ssh_server_that_changed_its_key"),
    Fault("Links", "nobody listens at a device's address",
          "the others are measured",
          "SKIPPED", "not_available", 3, f"{LINKS}::test_two_devices_that_are_not_there"),
    Fault("Links", "Ctrl-C while a device is waited for",
          "at once",
          None, None, 130, f"{BROKEN}::test_ctrl_c_while_a_device_is_waited_for"),
    Fault("The host", "Ctrl-C, or SIGTERM from a CI",
          "within seconds: what was measured is kept and reported, leases are given back, `--resume` goes on",
          None, None, 130, f"{HOSTS}::test_told_to_stop"),
    Fault("The host", "a second Ctrl-C",
          "at once, whatever hangs; no process and no folder is left",
          None, None, 130, f"{HOSTS}::test_told_to_stop_twice"),
    Fault("The host", "the host is killed, or its terminal closed",
          "what was stored is whole; the device is free at once; `--resume` measures what is missing",
          None, None, 0, f"{HOSTS}::test_a_host_that_is_killed"),
    Fault("The host", "the host is killed while a board measures for it",
          "the board goes on, and is collected by `--resume`",
          "OK", None, 0, f"{BROKEN}::test_a_host_that_is_killed_and_resumed"),
    Fault("The host", "the host stands still for seconds",
          "the job goes on, and is collected",
          "OK", None, 0, f"{HOSTS}::test_a_host_that_stands_still_for_a_moment"),
    Fault("The host", "the host stands still until its lease has ended, and another one measures",
          "the epoch fences it: it neither measures nor stores any more",
          None, None, 3, f"{PATIENCE}::test_a_host_that_stood_still"),
    Fault("The host", "HOME and USER are not set",
          "nothing",
          "OK", None, 0, f"{HOSTS}::test_no_home_and_no_names"),
    Fault("The host", "stdin or stderr is closed, or a full disk",
          "nothing; progress is not shown",
          "OK", None, 0, f"{HOSTS}::test_streams_that_are_closed"),
    Fault("The host", "stdout is closed, or a full disk",
          "an error; the result is in the store. A reader that went away (`| head`) is none",
          "OK", None, 2, f"{HOSTS}::test_a_stdout_that_takes_nothing"),
    Fault("The host", "the terminal shows ASCII alone",
          "other characters are escaped",
          "OK", None, 0, f"{HOSTS}::test_a_terminal_that_shows_ascii_alone"),
    Fault("The host", "few files may be open",
          "64 suffice",
          "OK", None, 0, f"{HOSTS}::test_few_files_may_be_open"),
    Fault("The host", "there is no room for temporary files",
          "refused before anything runs",
          None, None, 2, f"{HOSTS}::test_no_room_for_temporary_files"),
    Fault("The host", "a devices.yaml of aliases without end, or of Python's tags",
          "refused before anything runs",
          None, None, 2, f"{HOSTS}::test_a_device_list_that_would_never_end"),
    Fault("The host", "hostile names of models and devices",
          "labels: neither a shell nor a table nor a page is fooled",
          "OK", None, 0, f"{HOSTILE}::test_names_of_models"),
    Fault("The host", "a model that is a link, a pipe or a device of the system",
          "links are followed; all else is refused before anything runs",
          None, None, 2, f"{HOSTILE}::test_a_model_with_another_kind_of_content"),
    Fault("The host", "the webhook is away",
          "said; the exit code is the night's",
          None, None, 1, "tests/integration/test_suite.py::test_a_webhook_that_is_away_fails_nothing"),
    Fault("The host", "the webhook never answers",
          "given up after ten seconds",
          None, None, 1, f"{SLOW}::test_a_webhook_that_never_answers"),
    Fault("The store", "the database is locked for some seconds",
          "writes wait",
          "OK", None, 0, f"{STORES}::test_a_database_that_is_locked_for_a_while"),
    Fault("The store", "the database is locked for longer than ten seconds",
          "rows are spooled, and stored once when it is free",
          "OK", None, 0, f"{SLOW}::test_a_database_that_is_locked_for_longer_than_a_write_waits"),
    Fault("The store", "the database's file cannot grow",
          "rows are spooled, and stored once by the next command",
          "OK", None, 0, f"{STORES}::test_results_that_waited_are_stored_once"),
    Fault("The store", "the disk of store and spool is full",
          "the run ends with what it has, both paths in its message; `--resume` goes on",
          None, None, 3, f"{STORES}::test_a_disk_that_is_full"),
    Fault("The store", "the database's file is deleted",
          "the report is whole",
          "OK", None, 0, f"{STORES}::test_a_database_that_is_deleted"),
    Fault("The store", "PostgreSQL dies, and comes back",
          "rows are spooled, and stored once",
          "OK", None, 0, f"{STORES}::test_a_server_that_dies_in_the_middle"),
    Fault("The store", "the store is of a newer version, cut, or no database",
          "refused before anything runs, and not changed",
          None, None, 2, f"{STORES}::test_a_store_that_is_newer_or_broken"),
    Fault("The store", "the store is a folder, nowhere, or a server that is not there",
          "refused before anything runs",
          None, None, 2, f"{STORES}::test_a_store_that_cannot_be"),
    Fault("The store", "the store's folder is read-only",
          "refused before anything runs",
          None, None, 2, f"{HOSTS}::test_a_home_that_cannot_be_written"),
    Fault("The store", "the folder of `--output` goes while the run goes on",
          "the report goes to stdout",
          "OK", None, 2, f"{STORES}::test_an_output_that_cannot_be_written_any_more"),
    Fault("The store", "two runs write into one store",
          "each has its own results",
          "OK", None, 0, f"{STORES}::test_two_runs_into_one_store"),
    Fault("The store", "thirty hosts are killed while they write",
          "nothing that was said to be stored is lost, nothing is there by halves",
          None, None, 0, "tests/unit/test_store_survival.py::test_hosts_that_are_killed_while_they_write"),
    Fault("A lab", "a worker's host is killed",
          "its share is begun anew by whoever serves the device or its kind; each case is measured once",
          "OK", None, 0, f"{SLOW_LAB}::test_one_host_is_killed_and_one_frozen_for_longer_than_its_lease"),
    Fault("A lab", "a worker's host stands still for longer than its lease",
          "what it still does is fenced; each case is measured once",
          "OK", None, 0, f"{SLOW_LAB}::test_one_host_is_killed_and_one_frozen_for_longer_than_its_lease"),
    Fault("A lab", "the process that measures a share dies",
          "tried once more; what it had measured stands",
          "OK", None, 0, f"{LAB}::test_a_process_that_dies_is_tried_once_more"),
    Fault("A lab", "a share takes longer than it may",
          "ended by its worker, which goes on with the next one",
          "TIMEOUT", "timed_out", 3, f"{LAB}::test_a_share_that_takes_longer_than_it_may_is_ended"),
    Fault("A lab", "PostgreSQL crashes while the workers measure",
          "they go on, and store when it is back",
          "OK", None, 0, f"{SLOW_LAB}::test_a_database_that_crashes_in_the_middle_costs_nothing"),
    Fault("A lab", "the cable of a worker's host is pulled for a while",
          "it measures on, and stores when it is back",
          "OK", None, 0, f"{SLOW_LAB}::test_a_lab_to_try"),
    Fault("A lab", "rows were spooled for a share that another device has begun anew",
          "dropped: two devices make no result together",
          None, None, 0, "tests/unit/test_lab_store.py::test_what_was_spooled_of_a_share_that_another_device_has"),
    Fault("A lab", "a worker is stopped",
          "what it had begun waits again, first in line, and may still be tried as often",
          "OK", None, 0, f"{SLOW_LAB}::test_a_worker_that_is_stopped_gives_its_work_back"),
    Fault("A lab", "who asked is killed",
          "the lab measures all the same; `--resume` collects it",
          "OK", None, 0, f"{SLOW_LAB}::test_a_host_that_asked_and_died_goes_on"),
    Fault("A lab", "nobody serves a device",
          "said at once, and what to start where; five minutes later its cases end",
          "SKIPPED", "not_served", 3, f"{LAB}::test_what_nobody_serves_is_said_and_can_be_called_off"),
    Fault("A lab", "two hosts claim one device",
          "the second worker does not start, and says who has it",
          None, None, 2, f"{LAB}::test_a_device_has_one_worker"),
    Fault("A lab", "a device fails again and again",
          "quarantined after three faults in a day, until two health checks in a row are passed",
          "SKIPPED", "quarantined", 3, f"{LAB}::test_a_device_with_three_faults_is_left_alone_until_it_is_well"),
    Fault("A lab", "a health check passes at one time and fails at the next",
          "the device stays quarantined: its condition follows from what the store knows, and two in a row are needed",
          None, None, 0, "tests/unit/test_condition.py::test_two_passed_checks_bring_it_back"),
    Fault("A lab", "a device is quarantined, and has a power switch",
          "cycled once, then checked until it is well",
          "OK", None, 0, f"{SLOW_LAB}::test_a_quarantined_device_is_power_cycled_and_checked_until_it_is_well"),
    Fault("A lab", "the workload on a worker's host is another file",
          "compared before it is run: refused",
          "SKIPPED", "not_served", 3, f"{LAB}::test_a_workload_that_is_another_file_there_is_not_run"),
)
# fmt: on

HEAD = """# Reliability
What can go wrong, what becomes of it, and the test that shows it. (`python -m tests.faults.table` makes this page
of the table in `tests/faults/table.py`.)

Whatever happens, each test in `faults/` asserts the same of the whole run: the status, reason and exit code below; no
traceback; an end before the deadline and 30 s; no committed result lost, changed or doubled; no process, port, lease or
file left behind; and where the fault is one device's and another one measures beside it, that this one is not delayed
by more than a second. Tests elsewhere assert what their row says. Numbers of seconds are those of a machine with
nothing else to do.

`make soak` has six devices on one host (four of its own, one over SSH, one over ADB) measure for an hour while workers,
agents, links, a SQLite store and the host itself are disturbed at random from a seed: every case ends once, and neither
memory nor open files grow. Workers of a lab, PostgreSQL, and hosts that die are in the table alone.
"""


def page() -> str:
    """The whole of it."""
    lines = [HEAD]
    number = 0
    for kind in dict.fromkeys(fault.kind for fault in FAULTS):
        lines += [
            f"## {kind}",
            "| # | fault | what happens | status: reason | exit | test |",
            "|---|---|---|---|---|---|",
        ]
        for fault in (fault for fault in FAULTS if fault.kind == kind):
            number += 1
            ended = " ".join(f"`{word}`" for word in (fault.status, fault.reason) if word) or "-"
            test = fault.test.removeprefix("tests/").replace("::", "` `")
            lines.append(f"| {number} | {fault.fault} | {fault.happens} | {ended} | {fault.exit_code} | `{test}` |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
