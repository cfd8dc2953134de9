"""Our own client says, too, what of a question has no effect."""

from __future__ import annotations

from tests.clients.conftest import Service


def test_run_names_a_setting_that_the_runtime_fixed_at_load(service: Service) -> None:
    done = service.house.command("run", "qwen3-4b", "hi", "--temperature", "0.3")
    assert (done.returncode, done.stdout) == (0, "Hello there.\n"), done.stderr
    told = "(temperature, which this runtime takes only when the model is loaded, has no effect.)"
    assert (told in done.stderr) is (service.runtime != "1.3.1")


def test_rm_takes_an_alias_away_and_leaves_its_model_loaded(service: Service) -> None:
    folder = service.house.models / "gpt-5"
    folder.mkdir()
    (folder / "model.toml").write_text('id = "gpt-5"\nalias_of = "story"\n')
    assert service.house.command("run", "gpt-5", "hi").stdout == "Hello there.\n"
    done = service.house.command("rm", "gpt-5")
    assert (done.returncode, folder.exists()) == (0, False), done.stderr
    assert service.daemon.model("story")["state"] == "ready"
