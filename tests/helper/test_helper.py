"""The helper process: bounded, killed past its deadline, replaced for whoever comes next."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.errors import ExoRkllmError, TemplateError
from exo_rkllm.helper.parent import MEMORY, Helper, HelperLost, home_of
from tests.simulated import REPOSITORY


def is_alive(pid: int) -> bool:
    """Whether it still runs; one that nobody has collected does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest_asyncio.fixture
async def helper(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Helper]:
    monkeypatch.setattr("exo_rkllm.helper.parent.HOME", str(REPOSITORY))
    one = Helper("tests.helper.jobs:do")
    yield one
    one.close()


async def test_process_starts_with_the_first_job_and_stays(helper: Helper) -> None:
    assert helper.pid is None
    assert await helper.call("hello", seconds=5) == "hello"
    pid = helper.pid
    assert await helper.call("ä\ud800"[:1], seconds=5) == "ä"
    assert helper.pid == pid


async def test_arguments_of_any_length_arrive_as_they_were(helper: Helper) -> None:
    values = [None, True, -1, 1.5, ("a", {"content": ["x" * 500_000, "ä\U0001f600" * 200_000, "half: \ud800"[:5]]})]
    assert await helper.call("repr", values, seconds=5) == repr(values)


async def test_long_texts_take_no_fresh_memory_each_time(helper: Helper) -> None:
    """Pages that the kernel has to clear cost a long prompt twice what is done with it."""
    faults = []
    for _ in range(6):
        await helper.call("repr", "x" * 400_000, seconds=5)
        stat = Path(f"/proc/{helper.pid}/stat").read_text()  # noqa: ASYNC240 - procfs does not wait
        faults.append(int(stat.rpartition(")")[2].split()[7]))
    assert faults[-1] - faults[-2] < 50, "one copy alone has 98 pages"


async def test_job_past_its_deadline_is_killed_and_the_next_one_gets_a_new_process(helper: Helper) -> None:
    await helper.call("hello", seconds=5)
    pid, began = helper.pid, time.monotonic()
    with pytest.raises(HelperLost, match=r"took longer than 0\.3 s"):
        await helper.call("spin", seconds=0.3)
    assert time.monotonic() - began < 2
    assert await helper.call("hello", seconds=5) == "hello"
    assert helper.pid != pid is not None
    assert not is_alive(pid)


async def test_jobs_wait_while_a_lost_process_is_replaced(helper: Helper) -> None:
    jobs = [helper.call("spin", seconds=0.3), *(helper.call(str(number), seconds=5) for number in range(5))]
    lost, *answers = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(lost, HelperLost)
    assert answers == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (("die",), "used more processor time or memory than it may"),
        (("memory", 2 * MEMORY), "used more memory than it may"),
        (("fail",), "failed with 'ValueError: odd'"),
        (("long", 5 << 20), "made more than 4 MB"),
    ],
    ids=str,
)
async def test_failed_job_says_why_and_the_next_one_is_answered(
    helper: Helper, job: tuple[str | int, ...], reason: str
) -> None:
    with pytest.raises(HelperLost) as lost:
        await helper.call(*job, seconds=5)
    assert str(lost.value) == reason
    assert await helper.call("hello", seconds=5) == "hello"


async def test_errors_of_ours_come_back_as_they_were_raised(helper: Helper) -> None:
    with pytest.raises(TemplateError) as refusal:
        await helper.call("refuse", seconds=5)
    assert (refusal.value.sentence, refusal.value.hint) == ("It refuses.", "Ask otherwise.")


async def test_process_that_others_kill_amid_a_job_costs_that_job_nothing(helper: Helper) -> None:
    await helper.call("hello", seconds=5)
    job = asyncio.ensure_future(helper.call("sleep", 1, seconds=5))
    await asyncio.sleep(0.2)
    assert helper.pid is not None
    os.kill(helper.pid, signal.SIGKILL)
    assert await job == "sleep"


async def test_process_that_died_between_two_jobs_is_not_noticed_by_the_second(helper: Helper) -> None:
    await helper.call("hello", seconds=5)
    assert helper.pid is not None
    os.kill(helper.pid, signal.SIGKILL)
    await asyncio.sleep(0.2)
    assert await helper.call("hello", seconds=5) == "hello"


@pytest.mark.parametrize("after", [0.0, 0.5], ids=["while it starts", "while it works"])
async def test_caller_that_leaves_does_not_end_the_process(helper: Helper, after: float) -> None:
    """Otherwise callers that leave early again and again would keep it from ever starting."""
    task = asyncio.ensure_future(helper.call("sleep", 1, seconds=5))
    await asyncio.sleep(0.01 + after)
    pid = helper.pid
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await helper.call("hello", seconds=5) == "hello"
    assert helper.pid == pid is not None


async def test_process_that_does_not_start_is_told(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exo_rkllm.helper.parent.BOOT", "raise SystemExit(1)")
    with pytest.raises(HelperLost, match="none starts"):
        await helper.call("hello", seconds=5)


async def test_process_holds_only_its_socket_and_keeps_its_limits(helper: Helper) -> None:
    assert len((await helper.call("descriptors", seconds=5)).split()) == 5  # 0, 1, 2, the socket, and the listing
    memory, cpu, files, size, core = map(int, (await helper.call("limits", seconds=5)).split())
    assert (memory, files, size, core) == (MEMORY, 16, 0, 0)
    assert 3 <= cpu < 30
    with pytest.raises(HelperLost, match="File too large"):
        await helper.call("write", seconds=5)


async def test_process_ends_when_the_daemon_does() -> None:
    """Also one that computes: nobody kills it, and its processor time ends."""
    code = (
        "import asyncio\n"
        "from exo_rkllm.helper.parent import Helper\n"
        "async def main():\n"
        "    one = Helper('tests.helper.jobs:do')\n"
        "    await one.call('hello', seconds=5)\n"
        "    asyncio.ensure_future(one.call('spin', seconds=60))\n"
        "    await asyncio.sleep(0.2)\n"
        "    print(one.pid, flush=True)\n"
        "    import os; os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    for _ in range(200):
        if not is_alive(int(out)):
            return
        await asyncio.sleep(0.1)
    pytest.fail("the helper process outlives its daemon")


async def test_missing_package_is_named() -> None:
    with pytest.raises(ExoRkllmError, match="package no_such_package is not installed"):
        await Helper("tests.helper.jobs:do", ("no_such_package",)).call("hello", seconds=5)


def test_package_that_pip_did_not_install_is_found_in_the_vendor_folder(tmp_path: Path) -> None:
    (tmp_path / "carried_along").mkdir()
    assert home_of("carried_along", tmp_path) == str(tmp_path)
    assert home_of("pytest", tmp_path) == home_of("pytest") != str(tmp_path)
    with pytest.raises(ExoRkllmError, match="carried_along is not installed"):
        home_of("carried_along")
