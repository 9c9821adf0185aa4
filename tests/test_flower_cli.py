"""Flower's real command line: a simulation, and a deployment with TLS and authentication under faults."""

import pytest
from tiny import contents, settings_text, tiny

pytest.importorskip("flwr")

from deployment import APP, deployment, free_port, make_certificates, make_key

from matfl.config.run_config import preset
from matfl.runs import engine as federation
from matfl.runs import store
from matfl.runs.run import Run

pytestmark = pytest.mark.slow


def run_options(config, **keys):
    """`-c ...` for the config."""
    text = settings_text(config, preset("smoke"))
    keys = {"preset": "smoke", "method": config.method, "settings": text, "device": "cpu", "run-name": "run", **keys}
    return [
        "-c",
        " ".join(f"{key}={value}" if isinstance(value, int) else f'{key}="{value}"' for key, value in keys.items()),
    ]


def test_a_simulation_on_the_command_line_equals_the_local_run(tmp_path):
    config = tiny(rounds=2)
    federation.run(config, tmp_path / "alone", device="cpu", cache_dir=tmp_path / "cache")
    with deployment(tmp_path) as flower:
        flower.connect(insecure=True)
        flower.superlink("--insecure", "--simulation")
        flower.flwr(
            "run",
            APP,
            *run_options(config, **{"runs-dir": tmp_path / "runs"}),
            "--federation-config",
            f"num-supernodes={config.num_clients} client-resources-num-cpus=1 client-resources-num-gpus=0.0 "
            "init-args-num-cpus=2 init-args-log-to-driver=false",
        )
        flower.complete()
    assert contents(tmp_path / "runs" / "run") == contents(tmp_path / "alone")


def test_a_deployment_with_tls_and_authentication_survives_faults(tmp_path):
    """A node is killed in a round, then the SuperLink, and the same command ends the run.

    However slow the machine: all three clients have to be there at the start of a round, so that the run stands still
    from the round that lost one until the SuperLink is killed; and only the node that is killed is soon taken for lost.
    """
    config = tiny(tasks="outdoor/semseg,outdoor/sal,indoor/depth", clients_per_task=1, rounds=4, evaluate_every=4)
    run, folder = tmp_path / "runs" / "run", tmp_path
    make_certificates(folder)
    keys = [make_key(folder, f"node{i}") for i in range(4)]
    federation.prepare([config], cache_dir=folder / "cache", device="cpu")

    def stored():
        return store.stored_round(run, config) if run.exists() else 0

    def excluded():
        return [row["round"] for row in Run(run).rounds[: stored()] if "2" in row["excluded"]]

    with deployment(folder) as flower:
        flower.connect(**{"root-certificates": str(folder / "ca.crt")})
        ports = [free_port() for _ in keys]

        def node(i):
            return flower.start(
                f"node{i}",
                "flower-supernode",
                "--root-certificates",
                folder / "ca.crt",
                "--superlink",
                f"127.0.0.1:{flower.port}",
                "--auth-supernode-private-key",
                keys[i],
                "--port",
                ports[i],
                "--node-config",
                f'partition-id={min(i, 2)} num-partitions=3 device="cpu"',
                patience=1 if i == 2 else 60,
            )

        def superlink():
            link = flower.superlink(
                "--ssl-ca-certfile",
                folder / "ca.crt",
                "--ssl-certfile",
                folder / "server.pem",
                "--ssl-keyfile",
                folder / "server.key",
                "--enable-supernode-auth",
            )
            for i in range(3):
                flower.flwr("supernode", "register", f"{keys[i]}.pub", "test")
            return link

        def begin():
            flower.flwr("run", APP, "test", *run_options(config, **{"runs-dir": run.parent, "min-clients": 3}))

        link = superlink()
        stranger = node(3)
        flower.wait_for(lambda: "Failed to activate SuperNode" in flower.log("node3"), "a strange node is refused")
        assert "No SuperNode found with the given public key" in flower.log("superlink")
        flower.kill(stranger)
        nodes = [node(i) for i in range(3)]
        begin()
        flower.wait_for(lambda: stored() >= 1, "the first round is stored")
        flower.kill(nodes[2])
        flower.wait_for(lambda: stored() and excluded(), "the round that lost a node is stored")
        flower.kill(link)
        done = stored()
        assert excluded() == [done]
        lost = Run(run).rounds[done - 1]
        assert lost["participants"] == [0, 1], f"{lost}\n{flower.log('node0')[-2000:]}\n{flower.why()}"
        assert done < config.rounds
        for process in nodes[:2]:
            flower.kill(process)
        superlink()
        nodes = [node(i) for i in range(3)]
        begin()
        flower.complete()
    ended = Run(run)
    assert ended.finished
    assert [row["participants"] for row in ended.rounds[done:]] == [[0, 1, 2]] * (config.rounds - done)
    assert [session["from_round"] for session in ended.provenance["resumed"]] == [done]
    assert len(ended.metrics[ended.metrics["kind"] == "global"]["task"].unique()) == 3
