"""EM on three Ray nodes against EM on one machine: the same tables and refusals."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_stream import data, refused, scores_of, write

from denoise.cluster import LOOPBACK
from denoise.errors import InputError
from denoise.stages.em import read_em
from denoise.stages.stream import em_stream
from denoise.stages.stream.cluster import em_cluster
from denoise.tables import Provenance

EXACT = 1e-9


def both(directory, out, scores=None, n_parts=3, **options):
    """What one machine writes and what three nodes write."""
    em_stream(directory, out / "one", scores, **options)
    em_cluster(directory, out / "three", scores, n_parts=n_parts, **options)
    return read_em(out / "one"), read_em(out / "three")


def assert_equal(one, three):
    for name in ("annotators", "confidences"):
        mine, theirs = getattr(three, name), getattr(one, name)
        assert_frame_equal(mine, theirs, rel_tol=0, abs_tol=EXACT, check_dtypes=True)
    for key, value in one.summary.items():
        if isinstance(value, float):
            assert three.summary[key] == pytest.approx(value, rel=1e-9), key
        elif key not in ("run_id", "prior_a"):
            assert three.summary[key] == value, key


def few_votes(seed, n_annotators=300):
    """Many annotators with a few votes each, so that messages are sent."""
    pairs, votes = data(seed, n_votes=3_000, increasing=True)
    rng = np.random.default_rng(seed)
    who = pl.Series([f"k{k}" for k in rng.integers(0, n_annotators, len(votes))])
    return pairs, votes.with_columns(annotator_id=who)


@pytest.mark.parametrize(
    "case",
    [
        "margins",
        "nothing but votes",
        "no prior",
        "few votes each",
        "known answers",
        "one vote each",
        "votes on every pair, some without a score",
    ],
)
def test_three_nodes_give_what_one_machine_gives(case, nodes, tmp_path):
    pairs, votes = few_votes(4) if case == "few votes each" else data(3, n_votes=2_500)
    options = {} if case == "nothing but votes" else {"margin_column": "margin"}
    if case == "no prior":
        options["prior"] = "off"
    if case == "one vote each":
        votes = votes.unique("pair_id", keep="first", maintain_order=True)
    if case == "votes on every pair, some without a score":
        pairs = pairs.join(votes, "pair_id", how="semi")
    if case == "known answers":
        some = votes["pair_id"].unique().sort()[:40]
        options["truth"] = pl.DataFrame({"pair_id": some, "vote": ["a", "b"] * 20})
    directory = write(tmp_path / "data", pairs, votes)
    assert_equal(*both(directory, tmp_path, **options))


@pytest.mark.parametrize("single", [False, True])
def test_all_votes_in_one_part(single, nodes, tmp_path):
    """What a worker sends cannot be written to, and of one part nothing is added up."""
    pairs, votes = few_votes(7)
    votes = votes.unique("pair_id", keep="first", maintain_order=True) if single else votes
    directory = write(tmp_path / "data", pairs, votes)
    assert_equal(*both(directory, tmp_path, n_parts=1, margin_column="margin"))


def test_parts_without_rows_are_parts(nodes, tmp_path):
    pairs, votes = data(6)
    directory = tmp_path / "data"
    scores = scores_of(pairs)
    for name, frame in {"pairs": pairs, "votes": votes, "scores": scores}.items():
        (directory / f"{name}.parquet").mkdir(parents=True)
        for part, some in enumerate((frame.clear(), frame[:70], frame.clear(), frame[70:])):
            some.write_parquet(directory / f"{name}.parquet" / f"part-{part}.parquet")
    assert_equal(*both(directory, tmp_path, directory / "scores.parquet"))


def test_scores_in_shards_and_ids_in_numbers(nodes, tmp_path):
    pairs, votes = data(6, shared=0.3)
    number = {"pair_id": pl.col("pair_id").str.slice(1).cast(pl.Int64)}
    made = Provenance("import", {"source": "x"})
    directory = write(
        tmp_path / "data",
        pairs.with_columns(**number),
        votes.with_columns(**number),
        provenance=made,
    )
    scores = scores_of(pairs).with_columns(**number)
    scores.write_parquet(tmp_path / "scores.parquet", row_group_size=50)
    assert_equal(*both(directory, tmp_path, tmp_path / "scores.parquet"))


def test_more_votes_than_the_sample_takes_the_same_sample(nodes, tmp_path, monkeypatch):
    from denoise.pooled import calibrate, uncertainty

    for module in (calibrate, uncertainty):
        monkeypatch.setattr(module, "SAMPLE", 900)
    directory = write(tmp_path / "data", *data(8))
    one, three = both(directory, tmp_path, margin_column="margin")
    assert one.summary["temperature"] == pytest.approx(three.summary["temperature"], rel=1e-9)
    assert_equal(one, three)


@pytest.mark.parametrize("moment", ["fit", "messages", "beside messages", "write"])
def test_a_killed_node_costs_time_only(moment, nodes, tmp_path, monkeypatch):
    """A node with a part of the votes is killed in the middle of the work."""
    from denoise.stages.stream import partitions

    pairs, votes = few_votes(9)
    directory = write(tmp_path / "data", pairs, votes)
    em_stream(directory, tmp_path / "one", margin_column="margin")
    calls, run, values = [], partitions.Partitions._run, partitions.Partitions.values

    def killing(self, work, given, keep, by_part=False):
        calls.append(work.__name__)
        wanted = {"fit": "_expected", "messages": "_left_out"}.get(moment)
        ready = calls.count(wanted) == 2 and work.__name__ == wanted
        if moment == "beside messages":  # asks for nothing held, while the messages are
            ready = work.__name__ == "cavities" and "_first_messages" in calls
        if ready and len(nodes.workers) == 2:
            nodes.kill()
        return run(self, work, given, keep, by_part)

    def killing_values(self, first, count):
        if moment == "write" and len(nodes.workers) == 2:
            nodes.kill()
        return values(self, first, count)

    replaced = []
    replace = partitions.Partitions._replace
    monkeypatch.setattr(partitions.Partitions, "_run", killing)
    monkeypatch.setattr(partitions.Partitions, "values", killing_values)
    monkeypatch.setattr(
        partitions.Partitions, "_replace", lambda s, n: (replaced.append(n), replace(s, n))
    )
    em_cluster(directory, tmp_path / "three", n_parts=6, margin_column="margin")
    assert len(nodes.workers) == 1 and replaced, "the node was killed, and its parts were lost"
    assert_equal(read_em(tmp_path / "one"), read_em(tmp_path / "three"))


def test_what_one_machine_refuses_the_cluster_refuses(nodes, tmp_path):
    pairs, votes = data(5)
    wrong = {
        "the column 'vote'": votes.drop("vote"),
        "unknown vote": votes.with_columns(vote=pl.lit("c")),
        "an empty value": votes.with_columns(
            vote=pl.when(pl.int_range(pl.len()) == 700).then(None).otherwise("vote")
        ),
        "votes on pairs": votes.with_columns(pair_id=pl.lit("nowhere")),
        "another type of id": votes.with_columns(pair_id=pl.lit(3)),
        "repeated vote_id": votes.with_columns(vote_id=pl.lit(1)),
        "all are ties": votes.with_columns(vote=pl.lit("tie")),
    }
    for number, (problem, table) in enumerate(wrong.items()):
        directory = write(tmp_path / str(number), pairs, table)
        said = refused(directory, tmp_path)
        with pytest.raises(InputError) as there:
            em_cluster(directory, tmp_path / "out", n_parts=3)
        assert problem.split(" ")[-1] in str(there.value), problem
        assert str(there.value) == said
        assert not (tmp_path / "out").exists()


def test_repeated_pairs_foreign_scores_and_unknown_answers_are_refused(nodes, tmp_path):
    pairs, votes = data(5)
    twice = write(tmp_path / "twice", pl.concat([pairs, pairs.head(1)]), votes)
    with pytest.raises(InputError, match="1 repeated pair_id"):
        em_cluster(twice, tmp_path / "out", n_parts=3)
    directory = write(tmp_path / "data", pairs, votes)
    foreign = scores_of(pairs).with_columns(
        pair_id=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("x")).otherwise("pair_id")
    )
    foreign.write_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(InputError, match=r"foreign.parquet: row 5, .* that the data do not have"):
        em_cluster(directory, tmp_path / "out", tmp_path / "foreign.parquet", n_parts=3)
    truth = pl.DataFrame({"pair_id": [pairs["pair_id"][0], "x"], "vote": ["a", "b"]})
    with pytest.raises(InputError, match=r"1 known answer.* found 'x'"):
        em_cluster(directory, tmp_path / "out", truth=truth, n_parts=3)


def test_the_command_on_the_cluster_and_alone(nodes, tmp_path):
    directory = write(tmp_path / "data", *data(2))
    command = [sys.executable, "-m", "denoise", "em", str(directory), "--margin", "margin"]
    for name, words in {
        "here": ["--stream"],
        "there": ["--engine", "ray", "--ray-address", nodes.address],
        "alone": ["--engine", "ray"],
    }.items():
        out = ["--out", str(tmp_path / name)]
        done = subprocess.run([*command, *words, *out], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "Ray" not in done.stderr
    one = read_em(tmp_path / "here")
    for name in ("there", "alone"):
        assert_equal(one, read_em(tmp_path / name))


def test_paths_are_those_of_the_command_wherever_the_workers_stand(nodes, tmp_path, policy_dir):
    """Relative ones, in a folder that is not where the nodes were started."""
    lines = [f'{{"prompt": "p {i}", "chosen": "good", "rejected": "bad"}}' for i in range(70)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    (tmp_path / "policy").symlink_to(policy_dir)
    ray = ("--engine", "ray", "--ray-address", nodes.address)
    scored = ("score", "data", "--policy", "policy", "--workers", "1", *ray)
    for words in (
        ("import", "pairs.jsonl", "--out", "data"),
        (*scored, "--out", "scores.parquet"),
        ("em", "data", "--scores", "scores.parquet", "--loss", "simpo", *ray, "--out", "em"),
    ):
        command = [sys.executable, "-m", "denoise", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
    assert len(read_em(tmp_path / "em").confidences) == 70


def test_nobody_at_the_address_is_said_at_once(tmp_path):
    directory = write(tmp_path / "data", *data(2))
    command = [sys.executable, "-m", "denoise", "em", str(directory), "--engine", "ray"]
    words = ["--ray-address", "127.0.0.1:1", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_with_a_token_says_what_it_wants(tmp_path):
    """A head as `ray start` makes it, for who has its token."""
    directory = write(tmp_path / "data", *data(2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    theirs = {**os.environ, **LOOPBACK, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    subprocess.run([*ray, "get-auth-token", "--generate"], env=theirs, check=True, timeout=60)
    head = ["start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    words = [*ray, *head, "--include-dashboard=false", "--disable-usage-stats"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # A group of its own: `ray stop` would end every cluster of this machine.
    running = subprocess.Popen(words, env=theirs, start_new_session=True, **quiet)
    try:
        address = f"127.0.0.1:{port}"
        for _ in range(100):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.3)
        command = [sys.executable, "-m", "denoise", "em", str(directory), "--engine", "ray"]
        command += ["--ray-address", address, "--out", str(tmp_path / "out")]
        strangers = {**theirs, "RAY_AUTH_MODE": "disabled"}
        options = {"capture_output": True, "text": True, "timeout": 150}
        refused_there = subprocess.run(command, env=strangers, **options)
        assert refused_there.returncode == 1
        assert "it wants the cluster's token" in refused_there.stderr
        token = (tmp_path / ".ray" / "auth_token").read_text().strip()
        done = subprocess.run(command, env=theirs, **options)
        assert done.returncode == 0, done.stderr
        for said in (done, refused_there):
            assert token not in said.stdout + said.stderr
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def test_ray_alone_listens_on_loopback_only(tmp_path):
    """Every port that the process and its children listen on while Ray is up."""
    program = (
        "import psutil\n"
        "from denoise.cluster import session\n"
        "with session() as ray:\n"
        "    ray.get(ray.remote(lambda: 1).remote())\n"
        "    me = psutil.Process()\n"
        "    for each in [me, *me.children(recursive=True)]:\n"
        "        for c in each.net_connections('inet'):\n"
        "            if c.status == 'LISTEN': print('port', c.laddr.ip)\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    places = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("port")}
    assert places and places <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
