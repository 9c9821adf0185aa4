"""Flower's real command line: a simulation, and a deployment with TLS and authentication under faults."""

from dataclasses import asdict

import pytest
from tiny import contents, tiny

pytest.importorskip("flwr")

from deployment import APP, deployment, make_certificates, make_key, wait_for

from matfl import federation, store
from matfl.config import preset
from matfl.runs import Run

pytestmark = pytest.mark.slow


def run_options(config, **keys):
    """`-c ...` for the config."""
    plain = asdict(preset("smoke"))
    changed = {name: value for name, value in asdict(config).items() if value != plain[name] and name != "method"}
    text = "; ".join(f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
                     for name, value in changed.items())  # fmt: skip
    keys = {"preset": "smoke", "method": config.method, "settings": text, "device": "cpu", "run-name": "run", **keys}
    return ["-c", " ".join(f"{key}={value}" if isinstance(value, int) else f'{key}="{value}"'
                           for key, value in keys.items())]  # fmt: skip


def test_a_simulation_on_the_command_line_equals_the_local_run(tmp_path):
    config = tiny(rounds=2)
    federation.run(config, tmp_path / "alone", device="cpu", cache_dir=tmp_path / "cache")
    with deployment(tmp_path) as flower:
        flower.connect(insecure=True)
        flower.superlink("--insecure", "--simulation")
        flower.flwr("run", APP, *run_options(config, **{"runs-dir": tmp_path / "runs"}), "--federation-config",
                    f"num-supernodes={config.num_clients} client-resources-num-cpus=1 client-resources-num-gpus=0.0 "
                    "init-args-num-cpus=2 init-args-log-to-driver=false")  # fmt: skip
        assert flower.finish(240) == "finished:completed", flower.log("superlink")[-5000:]
    assert contents(tmp_path / "runs" / "run") == contents(tmp_path / "alone")


@pytest.mark.deployment
def test_a_deployment_with_tls_and_authentication_survives_faults(tmp_path):
    config = tiny(tasks="outdoor/semseg,outdoor/edge,indoor/depth", clients_per_task=1, rounds=4, evaluate_every=4)
    runs = tmp_path / "runs"
    make_certificates(tmp_path)
    keys = [make_key(tmp_path, f"node{i}") for i in range(4)]
    federation.prepare([config], cache_dir=tmp_path / "cache", device="cpu")

    def rounds():
        path = runs / "run"
        return store.stored_round(path, config) if path.exists() else 0

    with deployment(tmp_path) as flower:
        flower.connect(**{"root-certificates": str(tmp_path / "ca.crt")})
        tls = ("--ssl-ca-certfile", tmp_path / "ca.crt", "--ssl-certfile", tmp_path / "server.pem", "--ssl-keyfile",
               tmp_path / "server.key", "--enable-supernode-auth")  # fmt: skip
        ports = {}

        def node(i):
            from deployment import free_port

            ports.setdefault(i, free_port())
            return flower.start(
                f"node{i}", "flower-supernode", "--root-certificates", tmp_path / "ca.crt", "--superlink",
                f"127.0.0.1:{flower.port}", "--auth-supernode-private-key", keys[i], "--port", ports[i],
                "--node-config", f'partition-id={min(i, 2)} num-partitions=3 device="cpu"',
            )  # fmt: skip

        def begin():
            link = flower.superlink(*tls)
            for i in range(3):
                flower.flwr("supernode", "register", f"{keys[i]}.pub", "test")
            nodes = [node(i) for i in range(3)]
            flower.flwr("run", APP, "test", *run_options(config, **{
                "runs-dir": runs, "round-timeout": 150, "discovery-timeout": 120}))  # fmt: skip
            return link, nodes

        link, nodes = begin()
        stranger = node(3)
        wait_for(lambda: rounds() >= 1, 150, "the first round is stored")
        assert "Failed to activate SuperNode" in flower.log("node3")
        assert "No SuperNode found with the given public key" in flower.log("superlink")
        flower.kill(nodes[2])
        wait_for(lambda: rounds() >= 2, 200, "the round of the killed node is stored")
        flower.kill(link)
        done = rounds()
        for process in (*nodes[:2], stranger):
            flower.kill(process)
        assert Run(runs / "run").rounds[1]["participants"] == [0, 1]
        assert Run(runs / "run").rounds[1]["excluded"].keys() == {"2"}
        assert done < config.rounds
        begin()
        assert flower.finish(240) == "finished:completed", flower.log("superlink")[-5000:]
    run = Run(runs / "run")
    assert run.finished
    assert [row["participants"] for row in run.rounds[2:]] == [[0, 1, 2]] * 2
    assert run.provenance["resumed"][0]["from_round"] == done
    assert len(run.metrics[run.metrics["kind"] == "global"]["task"].unique()) == 3
