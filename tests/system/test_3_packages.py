"""What dpkg does to a machine: upgrade, removal, purge. Every test has a pristine container of its own."""

from __future__ import annotations

from collections.abc import Mapping

from tests.system.substrate import owner
from tests.system.substrate.computer import Computer
from tests.system.substrate.container import Container
from tests.system.substrate.packages import OLDER
from tests.system.substrate.terminal import at_terminal
from tests.system.test_1_service import UNIT, answers, warnings, words

OLDER_PACKAGES = "/srv/share/older/exo-rkllm_amd64.deb /srv/share/older/exo-rkllm-simulator_amd64.deb"
EDITED = "/etc/exo-rkllm/config.toml"
REFUSED = "/etc/exo-rkllm/conf.d/00-cluster.toml"
PRESEED = "echo exo-rkllm exo-rkllm/join-cluster boolean false | debconf-set-selections"
# debconf's frontend that asks in plain lines.
ASKING = "DEBIAN_FRONTEND=teletype"
# Everything but what the kernel and a running system write, with its mode and owner.
FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp"
    " -o -path /var/log -o -path /var/cache -o -path /var/lib/systemd/random-seed -o -path /root \\) -prune"
    " -o -printf '%p %M %U:%G\\n' | sort"
)
# apt and dpkg keep books on what they did.
BOOKS = ("/etc/apt/", "/var/lib/apt/", "/var/lib/dpkg/", "/var/lib/systemd/timers/")


def version(computer: Computer) -> str:
    (name,) = (name for name in computer.metrics() if name.startswith("rkllm_daemon_info"))
    return name


def installed(computer: Computer) -> str:
    return computer.run("dpkg-query -W -f '${Version}' exo-rkllm").strip()


def set_up(computer: Computer, packages: str = "exo-rkllm exo-rkllm-simulator") -> None:
    owner.apt(computer, f"install {packages}")
    computer.run(f"exo-rkllm-simulator use && systemctl restart {UNIT}")
    owner.add_model(computer)


def machine_state(computer: Computer) -> Mapping[str, str]:
    """What a purge has to restore."""
    files = [line for line in computer.run(FILES).splitlines() if not line.startswith(BOOKS)]
    accounts = computer.run("getent passwd; getent group").splitlines()
    return dict.fromkeys(files + accounts, "")


def test_an_upgrade_lets_the_answer_end_and_keeps_models_and_settings(container: Container) -> None:
    set_up(container, OLDER_PACKAGES)
    assert installed(container) == OLDER
    setting = '/^.models.$/a keep_alive = "7m"'
    container.run(f"sed -i '{setting}' {EDITED} && systemctl reload {UNIT}")
    owner.add_model(container, "slow", "--decode-tps 8")
    container.run(f"nohup {owner.chat(model='slow')} > /tmp/running 2>&1 < /dev/null & disown")
    container.until("a running answer", lambda: container.run("cat /tmp/running").count("data: ") > 3)
    owner.add_repository(container)
    said = owner.apt(container, "dist-upgrade")
    assert "onfiguration file" not in said, "somebody was asked what to do with a file"
    assert installed(container) != OLDER
    assert words(container.run("cat /tmp/running")), "the answer that ran was cut"
    assert container.show(UNIT, "ActiveState") == "active"
    assert 'keep_alive = "7m"' in container.run(f"cat {EDITED}")
    assert answers(container)
    assert "slow" in container.run("exo-rkllm models")
    assert warnings_but_runtime(container) == []


def warnings_but_runtime(computer: Computer) -> list[str]:
    return [one for one in warnings(computer) if "No librkllmrt.so was found" not in one]


def test_removing_keeps_models_and_settings_for_the_next_time(container: Container) -> None:
    owner.add_repository(container)
    set_up(container)
    container.run(f"echo '# mine' >> {EDITED}")
    group = container.show(UNIT, "ControlGroup")
    assert answers(container)
    owner.apt(container, "remove exo-rkllm exo-rkllm-simulator")
    assert container.ask(f"test -e /sys/fs/cgroup{group}").code != 0, "processes are left"
    assert container.ask("command -v exo-rkllm").code != 0
    assert container.run("ls /var/lib/exo-rkllm/models").split() == ["demo"]
    owner.apt(container, "install exo-rkllm exo-rkllm-simulator")
    container.run(f"exo-rkllm-simulator use && systemctl restart {UNIT}")
    assert "# mine" in container.run(f"cat {EDITED}")
    assert answers(container)


def test_a_purge_without_an_answer_keeps_the_models_alone(container: Container) -> None:
    owner.add_repository(container)
    set_up(container)
    said = owner.apt(container, "purge exo-rkllm exo-rkllm-simulator")
    assert "were kept" in said
    left = container.run(
        "find / -xdev -iname '*rkllm*' -not -path '/etc/apt/*' -not -path '/var/lib/exo-rkllm/models/*'"
    )
    assert left.split() == ["/var/lib/exo-rkllm"]
    found = container.run("find /var/lib/exo-rkllm -type f | xargs -n 1 basename").split()
    assert sorted(found) == ["demo.rkllm", "model.toml"]
    assert container.run("find /var/lib/exo-rkllm -not -user root") == "", "files of a user who is no more"


def test_a_purge_with_models_leaves_the_machine_as_it_was(container: Container) -> None:
    owner.add_repository(container)
    before = machine_state(container)
    set_up(container)
    assert answers(container)
    container.run("echo exo-rkllm exo-rkllm/purge-models boolean true | debconf-set-selections")
    owner.apt(container, "purge exo-rkllm exo-rkllm-simulator")
    after = machine_state(container)
    assert sorted(after.keys() - before.keys()) == []
    assert sorted(before.keys() - after.keys()) == []


# ── the question ─────────────────────────────────────────────────────────────────────────────────


def keeps_out(computer: Computer) -> bool:
    """Whether the settings in force, and the daemon that runs, join no exo cluster."""
    refused = computer.ask(f"grep -qx 'enabled = false' {REFUSED}").code == 0
    said = computer.ask("exo-rkllm cluster")
    assert refused == ("joins no exo cluster" in said.err), said.all
    return refused


def answering(computer: Computer, answer: str, command: str) -> str:
    return at_terminal(computer, f"{ASKING} {command}", "[yes/no]", answer)


def test_an_installation_without_a_terminal_joins_and_no_is_one_word_later(container: Container) -> None:
    owner.add_repository(container)
    owner.apt(container, "install exo-rkllm")
    assert not keeps_out(container)
    said = answering(container, "no", "dpkg-reconfigure exo-rkllm")
    assert "Join an exo cluster on the local network?" in said
    assert keeps_out(container), "the service was not restarted, or goes on as before"
    answering(container, "yes", "dpkg-reconfigure exo-rkllm")
    assert not keeps_out(container)
    assert container.ask(f"test -e {REFUSED}").code != 0
    assert warnings_but_runtime(container) == []
    container.run(f"systemctl stop {UNIT} && exo-rkllm cluster leave && systemctl start {UNIT}")
    assert "was told to leave" in container.run("exo-rkllm cluster")
    assert container.run("stat -c %U /var/lib/exo-rkllm/cluster/stay-out").strip() == "exo-rkllm"
    assert "is searching" in container.run("exo-rkllm cluster join")


def test_the_installation_asks_and_takes_no_for_an_answer(container: Container) -> None:
    owner.add_repository(container)
    said = answering(container, "no", "apt-get -y -o Dpkg::Use-Pty=0 install exo-rkllm")
    assert said.count("Join an exo cluster on the local network?") == 1
    assert keeps_out(container)
    assert container.show(UNIT, "ActiveState") == "active"


def test_a_refused_cluster_stays_refused_until_the_owner_or_a_purge_says_otherwise(container: Container) -> None:
    container.run(PRESEED)
    owner.apt(container, f"install {OLDER_PACKAGES.split()[0]}")
    assert installed(container) == OLDER
    assert keeps_out(container)
    owner.add_repository(container)
    said = answering(container, "", "apt-get -y -o Dpkg::Use-Pty=0 dist-upgrade")
    assert "Join an exo cluster" not in said, "an upgrade asks nothing"
    assert installed(container) != OLDER
    assert keeps_out(container)
    container.run(f"rm {REFUSED} && systemctl restart {UNIT}")
    owner.apt(container, "install --reinstall exo-rkllm")
    assert not keeps_out(container), "what the owner has deleted came back"
    container.run(f"printf '[cluster]\\nenabled = true\\n# mine\\n' > {REFUSED}")
    owner.apt(container, "install --reinstall exo-rkllm")
    assert "# mine" in container.run(f"cat {REFUSED}")
    owner.apt(container, "purge exo-rkllm")
    assert container.ask("test -e /etc/exo-rkllm").code != 0
    assert "exo-rkllm" not in container.run("debconf-show --listowners")
