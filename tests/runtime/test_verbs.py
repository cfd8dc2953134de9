"""`exo-rkllm inspect` and `exo-rkllm runtime`, as people and programs read them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exo_rkllm.cli import main
from exo_rkllm.runtime import abi, locate, vendor_files
from exo_rkllm.runtime.locate import NAME, VARIABLE
from exo_rkllm.runtime.vendor_files import VendorRelease
from tests.runtime import folders, libraries
from tests.runtime.test_install import Serve
from tests.runtime.test_install import serve as serve
from tests.simulated import Library, build

Make = Callable[..., Path]
INSTALLED = "runtimes/librkllmrt-1.3.0.so"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a board, a library and a configuration, whatever this one has."""
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(tmp_path / "no-board"))
    monkeypatch.setenv("EXO_RKLLM_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(locate, "DIRECTORIES", (tmp_path / "usr-lib", tmp_path / "usr-local-lib"))


# ── inspect ──────────────────────────────────────────────────────────────────────────────────────


def test_inspect_shows_each_fact_with_its_source(make_model: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_model(file="Qwen2.5-0.5B-rk3588-w8a8.rkllm", toolkit="1.2.3")
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: 2 MB\n")
    for line in (
        "converted with  1.2.3           from the file's footer",
        "platform        RK3588          from the file's header",
        "context         4096            from the file's header",
        "quantisation    W8A8            from the name, so it may be wrong",
        "own tokenizer   yes             from the file's header",
        "memory: about 262 MB at 4096 tokens (12,288 bytes a token)",
    ):
        assert line in out
    assert "not known" not in out


def test_inspect_says_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.rkllm"
    path.write_bytes(b"\x01" * (1 << 20))
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "unknown layout" in out
    assert "unknown: converted with, platform, NPU cores, context, quantisation, architecture, layers" in out


def test_inspect_compares_with_this_machine_s_runtime(
    make_model: Make, library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(library("1.2.3")))
    assert main(["inspect", str(make_model(toolkit="1.2.3"))]) == 0
    assert "No objections on this machine: runtime 1.2.3." in capsys.readouterr().out
    assert main(["inspect", str(make_model(toolkit="1.3.0"))]) == 0
    out = capsys.readouterr().out
    assert "! model-1.rkllm was converted with toolkit 1.3.0, which runtime 1.2.3 is too old for." in out
    assert "  try: exo-rkllm runtime --install" in out


def test_inspect_compares_with_this_machine_s_soc(
    make_model: Make, board_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(board_root))
    assert main(["inspect", str(make_model(file="a_w4a16_rk3576.rkllm", platform="RK3576", npu_cores=2))]) == 0
    out = capsys.readouterr().out
    assert "? a_w4a16_rk3576.rkllm is built for RK3576, and this board is RK3588." in out
    assert main(["inspect", str(make_model())]) == 0
    assert "No objections on this machine: RK3588." in capsys.readouterr().out


def test_inspect_works_where_the_configuration_does_not(
    make_model: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("no = [toml")
    assert main(["inspect", str(make_model())]) == 0
    assert "RK3588" in capsys.readouterr().out


def test_inspect_prints_json(make_model: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_model(toolkit="1.2.2")
    assert main(["inspect", "--json", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["size"], told["known_head"], told["runtime"]) == (str(path), 2 << 20, True, None)
    assert told["facts"]["toolkit"] == {"value": "1.2.2", "source": "footer"}
    assert told["kv_bytes_per_token"] == 12288
    assert told["objections"] == []
    assert "dtype" not in told["facts"]


def test_inspect_tells_doubts_to_programs_too(
    make_model: Make, library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(library("1.3.0")))
    main(["inspect", "--json", str(make_model(toolkit="1.2.2"))])
    (objection,) = json.loads(capsys.readouterr().out)["objections"]
    assert objection["certain"] is False
    assert "misses the end token" in objection["sentence"]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_inspect_of_what_is_no_model_fails(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.rkllm"
    path.write_bytes(b"GGUF" + bytes(99))
    assert main(["inspect", *flags, str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"exo-rkllm: {path} is a GGUF file, which the NPU cannot run.\n"
        "  try: Convert it with rkllm-toolkit, or get a .rkllm of the model\n"
    )


# ── runtime ──────────────────────────────────────────────────────────────────────────────────────


def test_runtime_without_a_library_shows_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runtime"]) == 1
    captured = capsys.readouterr()
    assert f"  {tmp_path}/usr-lib/librkllmrt.so        nothing\n" in captured.out
    assert "supported: 1.1.0 to 1.1.4, 1.2.0" in captured.out
    assert "No librkllmrt.so was found" in captured.err
    assert "exo-rkllm runtime --install" in captured.err


def test_runtime_shows_which_is_used_and_what_the_others_are(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    libraries.write(tmp_path / "usr-lib" / NAME, "1.0.1")
    (tmp_path / "usr-local-lib").mkdir()
    (tmp_path / "usr-local-lib" / NAME).symlink_to(library("1.2.3"))
    assert main(["runtime"]) == 0
    out = capsys.readouterr().out
    assert "librkllmrt 1.2.3, according to its version string; struct layout 1.2.1" in out
    assert "librkllmrt 1.2.3  <- used" in out
    assert "is librkllmrt 1.0.1 (by its version string), which is not supported" in out


def test_runtime_says_when_a_variable_decided(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(library("9.9.0")))
    assert main(["runtime"]) == 1
    captured = capsys.readouterr()
    assert f"set by {VARIABLE}" in captured.out
    assert "9.9.0" in captured.err


def test_runtime_takes_the_configured_library(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text(f'[runtime]\nlibrary = "{library("1.3.1")}"\n')
    assert main(["runtime"]) == 0
    out = capsys.readouterr().out
    assert "librkllmrt 1.3.1" in out
    assert "searched (library in section [runtime] of the configuration" in out


def test_runtime_prints_json(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(library("1.3.0")))
    assert main(["runtime", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["used"] == told["places"][0]
    assert told["used"]["version"] == "1.3.0"
    assert told["used"]["generation"] == "1.3.0"
    assert told["used"]["origin"] == "environment"
    assert told["supported"] == list(abi.RELEASES)
    monkeypatch.setenv(VARIABLE, "/nowhere.so")
    assert main(["runtime", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["used"] is None
    assert told["places"][0]["problem"]["code"] == "runtime_missing"


def test_runtime_installs_and_says_how_to_use_it(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = library("1.3.0")
    assert main(["runtime", "--install", str(source), "--directory", str(tmp_path / "usr-lib")]) == 0
    assert capsys.readouterr().out == f"Installed librkllmrt 1.3.0: {tmp_path}/usr-lib/{INSTALLED}\n"
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    command = ["runtime", "--install", str(source), "--sha256", checksum, "--directory", str(tmp_path / "mine")]
    assert main(command) == 0
    assert f"export {VARIABLE}={tmp_path}/mine/librkllmrt.so" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": f"{tmp_path}/mine/{INSTALLED}",
        "version": "1.3.0",
        "evidence": "version string",
        "default": "1.3.0",
        "vendor": False,
    }


def test_runtime_installs_and_shows_the_library_for_encoders(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "usr-lib"
    main(["runtime", "--install", str(library("1.3.0")), "--directory", str(folder)])
    assert main(["runtime"]) == 0
    assert "for models that see\n  No librknnrt.so was found" in capsys.readouterr().out
    for release in ("1.6.0", "2.3.2"):
        source = build() / f"rknn-{release}" / "librknnrt.so"
        assert main(["runtime", "--install", str(source), "--directory", str(folder)]) == 0
        assert capsys.readouterr().out == f"Installed librknnrt {release}: {folder}/librknnrt.so\n"
    assert (folder / "librknnrt.so").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((folder / "librknnrt.so").stat().st_mode) == 0o644
    assert [path.name for path in (folder / "runtimes").iterdir()] == ["librkllmrt-1.3.0.so"], "nothing stays behind"
    # A stand-in takes the place of the vendor's own, which no registry has.
    monkeypatch.setattr(
        vendor_files, "VENDOR_FILES", {hashlib.sha256(source.read_bytes()).hexdigest(): "librknnrt 2.3.2"}
    )
    assert main(["runtime"]) == 0
    assert f"  librknnrt 2.3.2  {folder}/librknnrt.so; the vendor's own file\n" in capsys.readouterr().out
    assert main(["runtime", "--install", str(source), "--directory", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vendor"] is True
    assert main(["runtime", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoders"]["version"] == "2.3.2"
    old = build() / "rknn-1.5.2" / "librknnrt.so"
    assert main(["runtime", "--install", str(old), "--directory", str(folder)]) != 0
    assert f"{old} is librknnrt 1.5.2, which is not supported" in capsys.readouterr().err
    assert (folder / "librknnrt.so").read_bytes() == source.read_bytes()


def test_runtime_lists_versions_and_sets_and_removes_them(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "usr-lib"
    where = ["--directory", str(folder)]
    assert main(["runtime", "--install", str(library("1.3.1")), *where]) == 0
    assert main(["runtime", "--install", str(library("1.2.3")), *where]) == 0
    out = capsys.readouterr().out
    assert "the default stays 1.3.1" in out
    assert f"exo-rkllm runtime --default 1.2.3 --directory {folder}" in out
    assert main(["runtime"]) == 0
    out = capsys.readouterr().out
    assert f"  1.3.1    {folder}/librkllmrt.so  <- default\n  1.2.3    {folder}/runtimes/librkllmrt-1.2.3.so\n" in out
    assert main(["runtime", "--default", "1.2.3", *where]) == 0
    assert f"The default is librkllmrt 1.2.3: {folder}/runtimes/librkllmrt-1.2.3.so\n" in capsys.readouterr().out
    assert main(["runtime", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["version"] for one in told["installed"]] == ["1.2.3", "1.3.1"]
    assert main(["runtime", "--remove", "1.2.3", *where]) == 2
    assert "is the default" in capsys.readouterr().err
    assert main(["runtime", "--remove", "1.3.1", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": "1.3.1"}
    assert main(["runtime", "--default", "1.3.1", *where]) == 1
    assert "is not installed" in capsys.readouterr().err


def test_folder_filled_by_hand_needs_no_default(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for release in ("1.2.0", "1.3.0"):
        folders.put(tmp_path / "usr-lib", library, release)
    assert main(["runtime"]) == 0
    assert f"  1.3.0    {tmp_path}/usr-lib/runtimes/librkllmrt-1.3.0.so  <- default\n" in capsys.readouterr().out


def test_inspect_says_which_runtime_the_file_would_be_loaded_with_and_why(
    make_model: Make, library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.filled(tmp_path / "usr-lib", library, "1.3.0", "1.2.3")
    path = make_model(toolkit="1.2.2")
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "  runtime: 1.2.3 (the default, 1.3.0, misses the end token of files of toolkits 1.2.2 and 1.2.3)\n" in out
    assert "No objections on this machine: runtime 1.2.3." in out
    assert main(["inspect", "--json", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["runtime"], told["objections"]) == ("1.2.3", [])
    assert told["runtime_reason"].startswith("the default, 1.3.0, misses")


@pytest.mark.parametrize("flags", [["--sha256", "0" * 64], ["--directory", "/tmp"]])
def test_runtime_takes_its_flags_together(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runtime", *flags]) == 2
    assert "belong to --install" in capsys.readouterr().err


def test_runtime_refuses_what_it_does_not_know(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runtime", "--install", str(library("1.0.1")), "--directory", str(tmp_path)]) == 1
    assert "is librkllmrt 1.0.1" in capsys.readouterr().err


class Typed(io.StringIO):
    """A terminal at which somebody types this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "flags", "code"),
    [("y\n", (), 0), ("", ("--accept-licence",), 0), ("\n", (), 2), ("no\n", (), 2), (None, (), 2)],
)
def test_latest_is_downloaded_from_the_vendor_by_who_accepts_its_licence(
    library: Library,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str | None,
    flags: tuple[str, ...],
    code: int,
) -> None:
    content = library("1.3.1").read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    release = VendorRelease("librkllmrt 1.3.1", serve(content), checksum, "https://vendor.example/LICENSE")
    monkeypatch.setattr(vendor_files, "LATEST", release)
    monkeypatch.setattr("sys.stdin", io.StringIO() if typed is None else Typed(typed))
    folder = tmp_path / "usr-lib"
    assert main(["runtime", "--install", "latest", "--directory", str(folder), *flags]) == code
    out, err = capsys.readouterr()
    assert "https://vendor.example/LICENSE" in err
    assert checksum in err
    assert (folder / "runtimes/librkllmrt-1.3.1.so").exists() is (code == 0)
    if code == 0:
        assert out.startswith("Installed librkllmrt 1.3.1: ")
    elif typed is None:
        assert "exo-rkllm runtime --install latest --accept-licence" in err


def test_latest_that_the_vendor_has_replaced_is_refused_with_a_way_out(
    library: Library, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release = replace(vendor_files.LATEST, url=serve(library("1.3.0").read_bytes()))
    monkeypatch.setattr(vendor_files, "LATEST", release)
    folder = tmp_path / "usr-lib"
    assert main(["runtime", "--install", "latest", "--accept-licence", "--directory", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "The vendor has another version there now" in err
    assert not list(folder.glob("runtimes/*"))
    assert release.sha256 in vendor_files.VENDOR_FILES


def test_runtime_shows_progress_on_a_terminal(library: Library, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = ["runtime", "--install", str(library("1.3.0")), "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "exo_rkllm", *command], stdout=subprocess.DEVNULL, stderr=terminal, cwd=ROOT
    )
    os.close(terminal)
    shown = os.read(controller, 4096)
    os.close(controller)
    assert done.returncode == 0
    assert shown == b"\r0.1 MB (100 %)\r\n"


# ── what a child process costs ───────────────────────────────────────────────────────────────────

HEAVY = {
    "asyncio",
    "numpy",
    "hashlib",
    "urllib",
    "http",
    "ssl",
    "email",
    "logging",
    "argparse",
    "subprocess",
    "tempfile",
}


def test_a_child_loads_nothing_heavy(library: Library) -> None:
    """What a model's process imports for a library that tells its version."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from exo_rkllm.runtime.session import Library, Session
Library.open({str(library("1.3.0"))!r})
print(*sys.modules)
"""
    # No environment and no site: what measures coverage, and the finder of an editable install, would come along.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("exo_rkllm.runtime.abi.v")} == {"exo_rkllm.runtime.abi.v1_3_0"}
