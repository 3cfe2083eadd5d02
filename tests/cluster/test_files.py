import importlib.util
import itertools
import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from scpl_ray.cli.main import COMMANDS, cli
from scpl_ray.config import load_config

ROOT = Path(__file__).parents[2]
CLUSTER, RAY_JOB = ROOT / "cluster", ROOT / "examples" / "ray_job"
FILES = sorted([*CLUSTER.iterdir(), *RAY_JOB.iterdir()])
LAUNCHERS = ["launcher-onprem.yaml", "launcher-aws.yaml"]
KUBERAY = ["kuberay-raycluster.yaml", "kuberay-rayjob.yaml"]
RAY_VERSION = "2.60.0"
IMAGE_EXAMPLES = "/home/ray/scpl-ray/examples/"

pytestmark = pytest.mark.timeout(60)


def read_yaml(name):
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def of_kind(name, kind):
    (found,) = [document for document in read_yaml(name) if document["kind"] == kind]
    return found


def cluster_spec(name):
    if name == "kuberay-rayjob.yaml":
        return of_kind(name, "RayJob")["spec"]["rayClusterSpec"]
    return of_kind(name, "RayCluster")["spec"]


def kuberay_errors(document):
    made = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())
    schema = made["kinds"][document["kind"]] | {"$defs": made["$defs"]}
    return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def launcher_errors(config):
    # find_spec does not import Ray.
    ray = Path(importlib.util.find_spec("ray").origin).parent
    schema = json.loads((ray / "autoscaler" / "ray-schema.json").read_text())
    return [e.message for e in jsonschema.Draft7Validator(schema).iter_errors(config)]


# The launcher files.


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_fit_rays_own_schema(name):
    (config,) = read_yaml(name)
    assert launcher_errors(config) == []
    assert launcher_errors(config | {"workers": 3}) != []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_bring_the_token_and_an_installable_package(name):
    (config,) = read_yaml(name)
    mounts = config["file_mounts"]
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    brought = {local for local in mounts.values() if not local.startswith("~")}
    assert brought == {"pyproject.toml", "README.md", "scpl_ray", "examples"}
    assert all((ROOT / local).exists() for local in brought)
    assert any("pip install" in command for command in config["setup_commands"])


def test_aws_workers_have_gpus_and_come_and_go():
    (config,) = read_yaml("launcher-aws.yaml")
    kinds = config["available_node_types"]
    assert "GPU" not in kinds[config["head_node_type"]]["resources"]
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["max_workers"]) == (0, 8)
    assert config["max_workers"] >= kinds["gpu"]["max_workers"]


# The Kubernetes files.


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_files_fit_the_crds_strictly(name):
    checked = [d["kind"] for d in read_yaml(name) if d["apiVersion"] == "ray.io/v1"]
    assert len(checked) == 1
    assert kuberay_errors(of_kind(name, checked[0])) == []


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "shutdownAfterJobFinish"),
        ("spec", "rayClusterSpec", "authOptions", "token"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "img"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "volume"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "volumes", 0, "pvc"),
    ],
    ids=lambda path: str(path[-1]),
)
def test_the_strict_schema_refuses_unknown_keys_at_every_depth(path):
    document = of_kind("kuberay-rayjob.yaml", "RayJob")
    node = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = "x"
    (error,) = kuberay_errors(document)
    assert repr(path[-1]) in error


def test_the_strict_schema_refuses_wrong_types_and_missing_keys():
    document = of_kind("kuberay-raycluster.yaml", "RayCluster")
    document["spec"]["workerGroupSpecs"][0]["minReplicas"] = "0"
    del document["spec"]["headGroupSpec"]["template"]
    assert len(kuberay_errors(document)) == 2


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_clusters_scale_gpus_and_keep_results_on_the_claim(name):
    spec = cluster_spec(name)
    claim = of_kind(name, "PersistentVolumeClaim")
    assert claim["apiVersion"] == "v1"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["resources"]["requests"]["storage"]
    assert spec["enableInTreeAutoscaling"] is True
    (gpu,) = spec["workerGroupSpecs"]
    assert gpu["minReplicas"] == 0 <= gpu["replicas"] <= gpu["maxReplicas"]
    head = spec["headGroupSpec"]["template"]["spec"]
    worker = gpu["template"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    for pod in (head, worker):
        (container,), (volume,) = pod["containers"], pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/results"}]


def test_the_rayjob_runs_once_and_starts_with_a_gpu_for_each_stage():
    spec = of_kind("kuberay-rayjob.yaml", "RayJob")["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert (spec["shutdownAfterJobFinishes"], spec["backoffLimit"]) == (True, 3)
    assert "--resume" in spec["entrypoint"], "a second attempt goes on"
    assert spec["ttlSecondsAfterFinished"] > 0
    assert "output.dir=/results" in spec["entrypoint"].split()
    assert isinstance(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"], dict)
    stages = load_config(ROOT / "examples" / "imdb.yaml").stages
    assert spec["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == len(stages)


# Authentication.


def test_no_file_turns_authentication_off():
    for path in FILES:
        text = path.read_text().lower()
        assert "disabled" not in text, path
        assert set(re.findall(r"ray_auth_mode[=:]\W*(\w+)", text)) <= {"token"}, path


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_clusters_ask_for_the_token(name):
    assert cluster_spec(name)["authOptions"] == {"mode": "token", "secretName": "scpl-ray-token"}
    made = f"kubectl create secret generic {cluster_spec(name)['authOptions']['secretName']} "
    assert f"{made}--from-file=auth_token=" in (CLUSTER / name).read_text()
    assert f"{made}--from-file=auth_token=" in (CLUSTER / "README.md").read_text()


def test_every_ray_start_and_submit_asks_for_the_token():
    seen = 0
    for path in FILES:
        for line in code_lines(path):
            if re.search(r"(^|\s)ray (start --|job submit )", line):
                # A shell keeps what it exported; a launcher runs each command in a new one.
                exported = "export RAY_AUTH_MODE=token" in path.read_text()
                exported = exported and path.suffix in (".md", ".sh")
                assert "RAY_AUTH_MODE=token ray" in line or exported, (path, line)
                seen += 1
    assert seen >= 10


# Versions and images.


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_names_the_same_ray_version(path):
    text = path.read_text()
    named = re.findall(r"(?i)(?<![\w-])ray(?:\[default\]==|:| |version: \")(\d+\.\d+\.\d+)", text)
    assert set(named) == {RAY_VERSION}
    assert set(re.findall(r"KubeRay (v\d+\.\d+)", text)) <= {"v1.7"}


def test_the_installed_package_accepts_that_ray():
    from packaging.requirements import Requirement

    needs = re.findall(r'"(ray\[default\][^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert Requirement(needs[0]).specifier.contains(RAY_VERSION)


def test_one_image_for_all_of_kubernetes():
    text = "".join((CLUSTER / name).read_text() for name in [*KUBERAY, "Dockerfile", "README.md"])
    tags = set(re.findall(r"registry\.example\.com/scpl-ray:(\S+)", text))
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert tags == {version, f"{version}-cpu"}


# The Dockerfile.


def test_the_dockerfile_copies_what_the_package_is_built_from():
    lines = [line.split() for line in (CLUSTER / "Dockerfile").read_text().splitlines()]
    copies = [
        [w for w in line[1:] if not w.startswith("--")] for line in lines if line[:1] == ["COPY"]
    ]
    sources = {source for copy in copies for source in copy[:-1]}
    assert sources == {"pyproject.toml", "README.md", "scpl_ray", "examples"}
    assert all((ROOT / source).exists() for source in sources)
    # A folder's contents are copied, not the folder: it must be named again.
    assert all(copy[-1] == f"./{copy[0]}" for copy in copies if (ROOT / copy[0]).is_dir())
    assert ["WORKDIR", IMAGE_EXAMPLES.removesuffix("/examples/")] in lines
    assert ["FROM", "${RAY_IMAGE}"] in lines


# What a job brings along.


def test_the_runtime_env_brings_the_package():
    env = yaml.safe_load((RAY_JOB / "runtime_env.yml").read_text())
    assert set(env) == {"py_modules", "env_vars"}
    (module,) = env["py_modules"]
    assert (ROOT / module / "__init__.py").is_file()
    assert all(isinstance(value, str) for value in env["env_vars"].values())


# Command lines.


def code_lines(path):
    """What a reader would run: fenced blocks, shell lines, comments with commands, YAML values."""
    text = path.read_text()
    if path.suffix == ".md":
        blocks = re.findall(r"```bash\n(.*?)```", re.sub(r"(?m)^ +```", "```", text), re.S)
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        lines = [*"\n".join(blocks).splitlines(), *spans]
    elif path.suffix in (".yaml", ".yml"):
        comments = re.findall(r"(?m)^#\s{2,}(.+)$", text)
        lines = [*comments, *itertools.chain(*map(strings, yaml.safe_load_all(text)))]
    else:
        lines = [re.sub(r"^#\s{2,}", "", line) for line in text.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in lines if line.strip()]


def strings(node):
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [text for child in children for text in strings(child)]


def product_calls():
    """(file, what follows the program's name): the last call of each line."""
    calls = []
    for path in FILES:
        for line in code_lines(path):
            call = re.search(
                r".*(?:^|[\s'\"/])(?:scpl-ray|python -m scpl_ray) (--help|[a-z]+\b.*)", line
            )
            if call and not line.startswith("#"):
                text = re.split(r"\s+#|\s&$", call[1])[0]
                for quote in "\"'":  # one that was opened before the call
                    text = text.removesuffix(quote) if text.count(quote) % 2 else text
                calls.append((path.name, text))
    return list(dict.fromkeys(calls))


CALLS = product_calls()


def test_the_command_lines_are_found():
    found = {(name, call.split()[0]) for name, call in CALLS}
    assert {
        ("README.md", "train"),
        ("README.md", "grow"),
        ("README.md", "status"),
        ("kuberay-rayjob.yaml", "train"),
        ("slurm.sh", "train"),
        ("slurm.sh", "grow"),
        ("Dockerfile", "train"),
    } <= found


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[f"{n}: {c}"[:70] for n, c in CALLS])
def test_a_command_line_is_one_of_the_product(name, call):
    words = shlex.split(call.replace('"$@"', "examples/imdb.yaml"))
    subcommand, arguments = words[0], words[1:]
    if subcommand == "--help":
        return
    assert subcommand in COMMANDS
    command = cli.get_command(click.Context(cli), subcommand)
    # Parses, runs nothing; an unknown option or a missing argument raises.
    parsed = command.make_context(subcommand, arguments, resilient_parsing=False)
    if subcommand != "train":
        return
    config = example_of(parsed.params["config"])
    overrides = [re.sub(r"\$\{?\w+(:-\$\w+\})?", "/x", text) for text in parsed.params["overrides"]]
    load_config(config, overrides)


def example_of(path):
    inside = path.removeprefix(IMAGE_EXAMPLES).removeprefix("examples/")
    assert not inside.startswith("/"), path
    assert (ROOT / "examples" / inside).is_file(), path
    return ROOT / "examples" / inside


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    text = path.read_text()
    named = re.findall(r"(?<![\w/.-])(?:cluster|examples)/[\w./-]+\.(?:ya?ml|sh|md)", text)
    named += ["cluster/Dockerfile"] if "cluster/Dockerfile" in text else []
    assert [name for name in named if not (ROOT / name).is_file()] == []
    if path.suffix == ".md":
        links = re.findall(r"\]\(([^)#]+)\)", text)
        assert [link for link in links if not (path.parent / link).exists()] == []


# slurm.sh, with stand-ins for Slurm, Ray and the product.

STANDINS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": "printf 'n1\\nn2\\n'\n",
    "hostname": "echo 127.0.0.1 10.0.0.1\n",
    "ray": """\
{ stat -c %a "$(dirname "$RAY_AUTH_TOKEN_PATH")" "$RAY_AUTH_TOKEN_PATH"; wc -c <"$RAY_AUTH_TOKEN_PATH"; } >>"$LOG/token"
echo "$RAY_AUTH_MODE ${RAY_AUTH_TOKEN-unset} $*" >>"$LOG/ray"
echo $$ >>"$LOG/pids"
for word in "$@"; do case $word in --port=*) port=${word#--port=} ;; esac; done
exec "$PYTHON" -c 'import socket, sys, time
if sys.argv[1:]: server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(100)' ${port-}
""",
    # Waits until all nodes joined, as the real one does.
    "python": 'cat >/dev/null\nuntil [ "$(wc -l <"$LOG/pids")" -ge "$2" ]; do sleep 0.1; done\n',
    "scpl-ray": 'echo "$RAY_ADDRESS $*" >>"$LOG/train"\n[ -z "${STAY-}" ] || exec sleep 100\nexit 7\n',
}


def free_port():
    """A free one among those that the script takes."""
    for port in range(20_000 + os.getpid() % 9_000, 30_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


@pytest.fixture
def slurm(tmp_path):
    for name in ("bin", "home", "log", "submit"):
        (tmp_path / name).mkdir()
    for name, body in STANDINS.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "activate").write_text(f"export PATH={tmp_path / 'bin'}:$PATH\n")
    env = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "LOG": str(tmp_path / "log"),
        "PYTHON": sys.executable,
        "SCPL_RAY_VENV": str(tmp_path),
        "SLURM_JOB_ID": str(free_port() - 20_000),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_SUBMIT_DIR": str(tmp_path / "submit"),
        "RAY_AUTH_TOKEN": "from-the-shell",
    }

    def start(*arguments, **more):
        command = ["bash", CLUSTER / "slurm.sh", *arguments]
        return subprocess.Popen(command, env=env | more, stderr=subprocess.PIPE, text=True)

    start.log = lambda name: (tmp_path / "log" / name).read_text().splitlines()
    start.home, start.logs = tmp_path / "home", tmp_path / "log"
    return start


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_the_slurm_script_is_bash():
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"], check=True)
    assert (CLUSTER / "slurm.sh").stat().st_mode & stat.S_IXUSR


def test_the_slurm_script_ends_by_its_own_steps_alone():
    code = re.sub(r"(?m)^#.*$", "", (CLUSTER / "slurm.sh").read_text())
    assert not re.search(r"ray stop|pkill|killall|scancel", code)


def test_the_slurm_script_starts_trains_and_leaves_nothing(slurm):
    process = slurm("examples/digits.yaml", "train.epochs=2", "--name", "two words")
    error = process.communicate(timeout=50)[1]
    assert process.returncode == 7, error  # the run's own
    head, worker = slurm.log("ray")
    address = re.search(r"--address=(\S+)", worker)[1]
    assert head.startswith("token unset start --head --node-ip-address=127.0.0.1")
    assert worker.startswith("token unset start --address=127.0.0.1:")
    assert f"--port={address.split(':')[1]} " in head
    assert slurm.log("token") == ["700", "600", "64"] * 2
    (train,) = slurm.log("train")
    assert train.startswith(f"{address} train examples/digits.yaml train.epochs=2 --name two words")
    assert train.endswith("/submit/runs")
    assert not any(map(alive, slurm.log("pids")))
    assert list(slurm.home.iterdir()) == []


def test_the_slurm_script_hands_a_signal_to_the_run(slurm):
    process = slurm(STAY="1")
    for _ in range(400):
        if (slurm.logs / "train").exists():
            break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not any(map(alive, slurm.log("pids")))
    assert list(slurm.home.iterdir()) == []


def test_the_slurm_script_says_that_the_head_did_not_start(slurm, tmp_path):
    (tmp_path / "bin" / "ray").write_text("#!/usr/bin/env bash\nexit 3\n")
    process = slurm()
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "error: the head on n1 ended" in error
    assert list(slurm.home.iterdir()) == []
