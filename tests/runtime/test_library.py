"""Opening a library: nothing of it runs before its release is known, and what the loader says gets a repair."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from exo_rkllm.errors import NotSupported, RuntimeMissing, RuntimeUnsupported
from exo_rkllm.runtime import abi
from exo_rkllm.runtime.abi import shared
from exo_rkllm.runtime.abi.shared import Generation
from exo_rkllm.runtime.features import FEATURES, Features
from exo_rkllm.runtime.library import Library as OpenLibrary
from exo_rkllm.runtime.library import open_failure
from tests.runtime import libraries
from tests.runtime.abi_check import GENERATIONS, kinds
from tests.simulated import REFUSED, VERSIONS, Library


@pytest.mark.parametrize("release", VERSIONS)
def test_a_library_is_opened_with_its_generation_s_functions(library: Library, release: str) -> None:
    opened = OpenLibrary.open(library(release))
    assert opened.version == release
    assert set(opened.functions) == set(abi.load(release).functions)


@pytest.mark.parametrize("release", REFUSED)
def test_a_refused_library_is_never_mapped(library: Library, release: str) -> None:
    path = library(release)
    with pytest.raises(RuntimeUnsupported, match=release):
        OpenLibrary.open(path)
    assert str(path) not in Path("/proc/self/maps").read_text()


BANNER = f'const char banner[] = "{libraries.banner("1.3.0").decode()}";'


def compiled(path: Path, source: str, *arguments: str) -> Path:
    """A shared object of the test's own."""
    code = path.with_suffix(".c")
    code.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, code, *arguments], check=True, capture_output=True)
    return path


def test_a_library_that_lacks_a_function_of_its_release_is_refused(tmp_path: Path) -> None:
    source = (
        f'const char banner[] = "{libraries.banner("1.3.0").decode()}"; int rkllm_destroy(void *h) {{ return !h; }}'
    )
    with pytest.raises(RuntimeUnsupported, match=r"says it is librkllmrt 1\.3\.0 and lacks rkllm_abort"):
        OpenLibrary.open(compiled(tmp_path / "librkllmrt.so", source))


def test_a_missing_dependency_is_named_with_its_package(tmp_path: Path) -> None:
    """The loader's own words, from a library that really needs a file that is really absent."""
    needed = compiled(tmp_path / "libgomp.so.1", "int needed(void) { return 1; }", "-Wl,-soname,libgomp.so.1.absent")
    source = f"{BANNER} int needed(void); int needs(void) {{ return needed(); }}"
    path = compiled(tmp_path / "librkllmrt.so", source, str(needed))
    needed.unlink()
    with pytest.raises(RuntimeMissing) as caught:
        OpenLibrary.open(path)
    assert "needs libgomp.so.1.absent, which is not installed" in caught.value.sentence


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (
            "libgomp.so.1: cannot open shared object file: No such file or directory",
            "needs libgomp.so.1, which is not installed",
            "apt install libgomp1",
        ),
        (
            "libstdc++.so.6: cannot open shared object file: No such file or directory",
            "needs libstdc++.so.6",
            "apt install libstdc++6",
        ),
        (
            "libomp.so: cannot open shared object file: No such file or directory",
            "is the Android build",
            "Linux aarch64",
        ),
        ("/lib/libc.so.6: version `GLIBC_2.29' not found (required by /x)", "needs GLIBC_2.29", "Debian 11"),
        ("/lib/libstdc++.so.6: version `GLIBCXX_3.4.26' not found", "needs GLIBCXX_3.4.26", "Ubuntu 20.04"),
        ("/x: wrong ELF class: ELFCLASS64", "is not built for this system", "aarch64"),
        ("/x: failed to map segment from shared object: Operation not permitted", "may not be mapped", "noexec"),
        ("/x: something that nobody has seen", "something that nobody has seen", "ldd"),
    ],
)
def test_what_the_loader_says_has_a_repair(text: str, says: str, hint: str) -> None:
    error = open_failure("/x", text)
    assert isinstance(error, RuntimeMissing)
    assert error.sentence.removeprefix("/x ").count("/x:") == 0, "the library is named once"
    assert says in error.sentence
    assert hint in error.hint


# ── what a release has ───────────────────────────────────────────────────────────────────────────

# Features that show in the layouts: a function, or a field of a struct.
SHOWS: Mapping[str, Callable[[Generation], object]] = {
    "n_keep": lambda g: "n_keep" in kinds(g.param),
    "cpus": lambda g: "enabled_cpus_mask" in kinds(kinds(g.param)["extend_param"]),
    "embed_flash": lambda g: "embed_flash" in kinds(kinds(g.param)["extend_param"]),
    "keep_history": lambda g: "keep_history" in kinds(g.infer_param),
    "logits": lambda g: "logits" in kinds(g.result),
    "set_chat_template": lambda g: "rkllm_set_chat_template" in g.functions,
    "clear_kv": lambda g: "rkllm_clear_kv_cache" in g.functions,
    "image_sizes": lambda g: {"n_image", "image"} & set(kinds(g.multimodal_input)),
    "role": lambda g: "role" in kinds(g.input),
    "thinking": lambda g: "enable_thinking" in kinds(g.input),
    "n_batch": lambda g: "n_batch" in kinds(kinds(g.param)["extend_param"]),
    "cross_attention": lambda g: "rkllm_set_cross_attn_params" in g.functions,
    "function_tools": lambda g: "rkllm_set_function_tools" in g.functions,
    "kv_cache_size": lambda g: "rkllm_get_kv_cache_size" in g.functions,
    "clear_kv_range": lambda g: len(g.functions.get("rkllm_clear_kv_cache", ((), ()))[1]) == 4,
    "pause": lambda g: g.result_callback is shared.IntResultCallback,
    "perf": lambda g: "perf" in kinds(g.result),
    "ignore_eos_token": lambda g: "ignore_eos_token" in kinds(g.param),
    "sampling_per_run": lambda g: "sampling_params" in kinds(g.infer_param),
    "max_new_tokens_per_run": lambda g: "max_new_tokens" in kinds(g.infer_param),
    "tags_per_input": lambda g: "image" in kinds(g.multimodal_input),
    "video": lambda g: "video" in kinds(g.multimodal_input),
    "audio": lambda g: "audio" in kinds(g.multimodal_input),
}
# The third argument of init, which is a struct of callbacks from 1.3.0 on.
BY_INIT = {"tokenizer_callback", "embed_callback", "release_output"}


def test_every_feature_is_looked_at() -> None:
    assert set(SHOWS) | BY_INIT == set(FEATURES)


@pytest.mark.parametrize("name", SHOWS)
@pytest.mark.parametrize("release", GENERATIONS)
def test_a_feature_is_said_to_be_there_exactly_where_the_layout_has_it(release: str, name: str) -> None:
    assert Features(release).has(name) == bool(SHOWS[name](abi.load(release)))


@pytest.mark.parametrize("release", GENERATIONS)
def test_callbacks_come_in_a_struct_exactly_where_init_takes_one(release: str) -> None:
    takes_struct = abi.load(release).functions["rkllm_init"][1][2] is not abi.load(release).result_callback
    assert {Features(release).has(name) for name in BY_INIT} == {takes_struct}


@pytest.mark.parametrize("name", FEATURES)
def test_what_a_release_lacks_is_a_sentence_with_the_release_that_has_it(name: str) -> None:
    since = FEATURES[name].since
    with pytest.raises(NotSupported) as caught:
        Features("1.1.4").require(name)
    assert caught.value.sentence.endswith(f"not supported by runtime 1.1.4: needs {since} or newer.")
    assert "exo-rkllm runtime --install" in caught.value.hint
    Features(since).require(name)
