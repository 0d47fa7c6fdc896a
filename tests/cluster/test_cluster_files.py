"""The ways to get machines: each by its system's own schema, all alike in what they share."""

import copy
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from study.flags import make_parser

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"
SERVICES = CLUSTER / "services"
FILES = sorted(p for p in CLUSTER.rglob("*") if p.is_file())
# The files of Ray's own launcher.
LAUNCHED = sorted(p for p in CLUSTER.glob("*.yaml") if "cluster_name" in p.read_text())
LOCK = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split())
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
# The fields of KubeRay's ray.io/v1 that cluster/kuberay.yaml relies on, from the reference of the
# custom resources, KubeRay 1.7.1 (docs.ray.io, 'KubeRay CRD API reference'), and the types in
# ray-operator/apis/ray/v1 of github.com/ray-project/kuberay.
KUBERAY = {
    "RayJobSpec": {
        "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "backoffLimit", "rayClusterSpec",
    },
    "RayClusterSpec": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "AuthOptions": {"mode"},
    "HeadGroupSpec": {"serviceType", "rayStartParams", "template"},
    "WorkerGroupSpec": {
        "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
    },
}  # fmt: skip
# Of Kubernetes' own core/v1.
POD_SECURITY_CONTEXT = {
    "runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy",
}  # fmt: skip
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}


def load(path):
    return yaml.safe_load(path.read_text())


def gpu_file():
    return load(CLUSTER / "gpu.yaml")


def gcp_file():
    """gpu.yaml with the marked block in it, as its user would edit it."""
    text = (CLUSTER / "gpu.yaml").read_text()
    block = text.partition("# -- begin GCP\n")[2].partition("# -- end GCP")[0]
    block = "\n".join(line.removeprefix("# ").removeprefix("#") for line in block.splitlines())
    assert yaml.safe_load(block).keys() == {"provider", "auth", "available_node_types"}
    return {**gpu_file(), **yaml.safe_load(block)}


def ray_job():
    documents = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    return next(d for d in documents if d["kind"] == "RayJob")


def pods(cluster):
    yield cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]["spec"]


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda p: p.name)
def test_rays_launcher_takes_the_file(path):
    validate_config(prepare_config(load(path)))


def test_rays_launcher_takes_the_file_for_gcp():
    config = gcp_file()
    assert config["provider"]["type"] == "gcp"
    validate_config(prepare_config(copy.deepcopy(config)))
    # The same kinds of machines, of another provider.
    kinds, here = config["available_node_types"], gpu_file()["available_node_types"]
    assert {k: v["resources"] for k, v in kinds.items()} == {
        k: v["resources"] for k, v in here.items()
    }
    assert kinds["gpu_spot"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"


def test_the_schema_would_notice():
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config({**gpu_file(), "max_wrokers": 3}))


def test_spot_comes_first_and_on_demand_after_it():
    config = gpu_file()
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    workers = {name: kind for name, kind in kinds.items() if name != config["head_node_type"]}
    spot = [n for n, k in workers.items() if "InstanceMarketOptions" in k["node_config"]]
    # Of two that are equal in all else Ray asks for the last in the alphabet.
    assert spot == [max(workers)]
    assert len({str(sorted(kind["resources"].items())) for kind in workers.values()}) == 1
    for kind in workers.values():
        assert (kind["min_workers"], kind["max_workers"]) == (0, config["max_workers"])
        assert kind["resources"]["GPU"] == 1
        # The role that reads the data and writes the storage.
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": "ffcad-study"}
    scorer = "RAY_AUTOSCALER_UTILIZATION_SCORER=study.spot_fallback.prefer_available"
    assert any(scorer in command for command in config["head_start_ray_commands"])
    assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda p: p.name)
def test_the_launchers_files_differ_in_machines_only(path):
    config, gpu = load(path), gpu_file()
    for key in ("file_mounts", "rsync_exclude", "worker_start_ray_commands"):
        assert config[key] == gpu[key], key
    shared = (".ffcad/shell", "tmux.conf", "rev-list")
    commands, gpu_commands = (
        [c for c in each["setup_commands"] if any(word in c for word in shared)]
        for each in (config, gpu)
    )
    assert sorted(commands) == sorted(gpu_commands)
    assert len(commands) == 4
    # Only of more than one kind of machine one is chosen.
    start, gpu_start = (
        re.sub(r"RAY_AUTOSCALER_UTILIZATION_SCORER=\S+ ", "", c["head_start_ray_commands"][-1])
        for c in (config, gpu)
    )
    assert start == gpu_start
    assert all(f"{name}={value}" in start for name, value in HEALTH.items())
    assert "--dashboard-host=127.0.0.1" in start
    assert "--num-cpus=0" in start
    assert "RAY_enable_autoscaler_v2=0" in start


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda p: p.name)
def test_the_repository_is_mounted_whole_enough_and_hides_nothing(path):
    mounts = load(path)["file_mounts"]
    for there, here in mounts.items():
        assert not re.match(r"~/(study|ffcad|search_spaces)(/|$)", there), there
        if not here.startswith("~"):
            assert there == f"~/ffcad-study/{here}"
            assert here == ".git" or (REPOSITORY / here).exists()
    packages = [p.removesuffix("*") for p in tomllib.loads(
        (REPOSITORY / "pyproject.toml").read_text()
    )["tool"]["setuptools"]["packages"]["find"]["include"]]  # fmt: skip
    wanted = {*packages, PROJECT["readme"], *PROJECT["license-files"], "constraints.txt"}
    assert wanted <= set(mounts.values())
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert mounts["~/.ffcad/environment"] == "~/.ffcad/environment"


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda p: p.name)
def test_the_shell_of_ray_submit_has_the_cluster_and_the_addresses(path, tmp_path):
    (tmp_path / ".ffcad").mkdir()
    (tmp_path / ".ffcad" / "environment").write_text(
        "export FFCAD_STORAGE=s3://bucket/studies\n"
        "export MLFLOW_TRACKING_URI=https://mlflow.example.org\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    def remote(command):
        # As Ray's launcher runs commands, ray/autoscaler/_private/command_runner.py.
        line = f"source ~/.bashrc; export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && ({command})"
        return subprocess.run(
            ["setsid", "bash", "--login", "-c", "-i", line],
            capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip

    (tmp_path / ".bashrc").write_text("")
    for _ in range(2):  # `ray up` again does the same again.
        for command in load(path)["setup_commands"]:
            if ".ffcad/shell" in command:
                remote(command)
    got = dict(line.split("=", 1) for line in remote("env").splitlines() if "=" in line)
    assert (got["RAY_ADDRESS"], got["RAY_AUTH_MODE"]) == ("auto", "token")
    assert got["FFCAD_STORAGE"] == "s3://bucket/studies"
    assert got["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"
    assert got["PATH"].startswith(f"{tmp_path}/ffcad-env/bin:")
    assert (tmp_path / ".bashrc").read_text().count("\n") == 1


def set_up(path, word, home, **environment):
    """Runs the one command of the set-up that has a word in it; its exit code."""
    (command,) = [c for c in load(path)["setup_commands"] if word in c]
    line = ["bash", "-c", command]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], **environment}
    return subprocess.run(line, env=environment, capture_output=True, text=True).returncode


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda p: p.name)
def test_modules_that_the_revision_no_longer_has_go_and_new_ones_stay(path, tmp_path):
    study = tmp_path / "ffcad-study" / "study"
    study.mkdir(parents=True)

    def git(*words):
        options = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", *options, *words], cwd=study.parent, check=True)

    for name in ("old", "kept"):
        (study / f"{name}.py").touch()
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    git("rm", "--quiet", "study/old.py")
    git("commit", "--quiet", "-m", "second")
    git("checkout", "--quiet", "-b", "another")
    (study / "elsewhere.py").touch()
    git("add", ".")
    git("commit", "--quiet", "-m", "third")
    git("checkout", "--quiet", "-")
    for name in ("old", "elsewhere", "own"):  # As rsync leaves two, and one that git does not know.
        (study / f"{name}.py").touch()
    assert set_up(path, "rev-list", tmp_path) == 0
    assert {p.name for p in study.iterdir()} == {"kept.py", "own.py"}


def test_own_machines_get_their_packages_anew_when_the_lock_is_another_one(tmp_path):
    repository, log, programs = (tmp_path / n for n in ("ffcad-study", "log", "programs"))
    for folder in (repository, programs):
        folder.mkdir()
    # Instead of `python3 -m venv`: an environment whose pip only says that it was called.
    (programs / "python3").write_text(
        "#!/bin/bash\nmkdir -p ~/ffcad-env/bin\ncat > ~/ffcad-env/bin/pip << 'END'\n#!/bin/bash\n"
        "echo x >> ~/log; touch ~/ffcad-env/bin/ray; exit $FAILS\nEND\n"
        "chmod +x ~/ffcad-env/bin/pip\n"
    )
    (programs / "python3").chmod(0o755)

    def installed(lock, fails="0"):
        """How often packages were installed up to now, and how the last time ended."""
        (repository / "constraints.txt").write_text(lock)
        (repository / "pyproject.toml").write_text("")
        path = f"{programs}:{os.environ['PATH']}"
        code = set_up(CLUSTER / "local.yaml", "pip install", tmp_path, PATH=path, FAILS=fails)
        return len(log.read_text().split()), code

    assert installed("ray==1", fails="1") == (1, 1)
    (tmp_path / "ffcad-env" / "bin" / "ray").chmod(0o755)  # It broke off after this one.
    assert installed("ray==1") == (2, 0)
    assert installed("ray==1") == (2, 0)
    assert installed("ray==2") == (3, 0)
    # One of the user's own is left as it is.
    (tmp_path / "ffcad-env" / "installed").unlink()
    assert installed("ray==3") == (3, 0)


def test_every_command_is_a_shells():
    commands = [c for path in LAUNCHED for key, value in load(path).items()
                if key.endswith("commands") for c in value]  # fmt: skip
    for pod in pods(ray_job()["spec"]["rayClusterSpec"]):
        for container in pod["initContainers"]:
            commands.append(container["command"][-1])
    assert len(commands) > 15
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
    for path in FILES:
        if path.suffix == ".sh":
            done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert path.stat().st_mode & 0o100, path


def test_ray_and_python_are_those_of_the_lock():
    assert ray_job()["spec"]["rayClusterSpec"]["rayVersion"] == LOCK["ray"]
    image = re.search(
        r"FROM rayproject/ray:(\S+)-py(\d)(\d+)", (CLUSTER / "Dockerfile").read_text()
    )
    assert image[1] == LOCK["ray"]
    python = f"{image[2]}.{image[3]}"
    assert any(f"--python {python} " in c for c in gpu_file()["setup_commands"])
    assert f"FROM python:{python}-" in (SERVICES / "Dockerfile").read_text()
    assert PROJECT["requires-python"] == f">={python}"
    extras = set(PROJECT["optional-dependencies"])
    for path in FILES:
        for found in re.findall(r"(?:ffcad-study|'\.)\[([\w,]+)\]", path.read_text()):
            assert set(found.split(",")) <= extras, (path, found)
    # And the lock has what they bring.
    brought = {"aiohttp-cors", "grpcio", "py-spy", "boto3", "Flask-WTF", "httplib2"}
    for requirement in (r for extra in PROJECT["optional-dependencies"].values() for r in extra):
        name = re.match(r"[\w-]+", requirement)[0]
        brought |= {name} - {PROJECT["name"]}
    assert {name.lower() for name in brought} <= {name.lower() for name in LOCK}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CLUSTER)))
def test_whatever_is_installed_has_its_version_from_the_lock_or_beside_it(path):
    text = re.sub(r"\\?\n#? +|(?<= -c)\n", " ", path.read_text())
    for line in re.findall(r"pip install ([^`&)\n]+)", text):
        words = shlex.split(line, comments=True)
        if "-c" in words:
            assert words[words.index("-c") + 1].endswith("constraints.txt"), line
        else:
            packages = [word for word in words if not word.startswith("-")]
            assert all("==" in package for package in packages), line


def test_kuberay_knows_every_field():
    job = ray_job()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec.keys() <= KUBERAY["RayJobSpec"]
    assert spec["submissionMode"] in SUBMISSION_MODES
    assert cluster.keys() <= KUBERAY["RayClusterSpec"]
    assert cluster["authOptions"].keys() <= KUBERAY["AuthOptions"]
    assert cluster["headGroupSpec"].keys() <= KUBERAY["HeadGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= KUBERAY["WorkerGroupSpec"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        params = [group["rayStartParams"], cluster["headGroupSpec"]["rayStartParams"]]
        # The resource wants text only.
        assert all(isinstance(v, str) for p in params for v in p.values())
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    documents = list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text()))
    claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    policy = next(d for d in documents if d["kind"] == "NetworkPolicy")
    # Each failure of the driver has a whole cluster made anew, mistakes of the user's among them.
    assert spec["backoffLimit"] == 1
    for pod in pods(cluster):
        (container,) = pod["containers"]
        values = {entry["name"]: entry["value"] for entry in container["env"]}
        assert values.items() >= HEALTH.items()
        assert container["envFrom"] == [{"secretRef": {"name": "ffcad-environment"}}]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] in claims
        assert "emptyDir" in volumes["data"]
        # No root, and what is mounted is the user's to write.
        user = pod["securityContext"]
        assert user.keys() <= POD_SECURITY_CONTEXT
        assert (user["runAsUser"], user["runAsGroup"], user["runAsNonRoot"]) == (1000, 100, True)
        assert user["fsGroup"] == user["runAsGroup"]
        assert container["image"] == pod["initContainers"][0]["image"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        labels = group["template"]["metadata"]["labels"]
        assert labels.items() >= policy["spec"]["podSelector"]["matchLabels"].items()
    (gpu,) = cluster["workerGroupSpecs"]
    limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_slurms_lines_are_whole():
    text = (CLUSTER / "slurm.sh").read_text()
    lines = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    options = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    assert options.keys() <= {
        "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time", "signal",
        "requeue", "open-mode", "output",
    }  # fmt: skip
    # One Ray on each machine; the shell is told in time.
    assert options["ntasks-per-node"] == "1"
    assert re.fullmatch(r"B:USR1@\d+", options["signal"])
    # Slurm reads them up to the first command.
    before = text.partition("set -euo")[0]
    assert before.count("#SBATCH") == len(lines)
    assert all(f"{name}={value}" in text for name, value in HEALTH.items())
    assert "RAY_AUTH_MODE=token" in text
    assert "--include-dashboard=false" in text
    assert not re.search(r"^\s*ray stop", text, re.MULTILINE)


def test_the_services_have_what_they_need_and_no_open_door():
    compose = load(SERVICES / "compose.yaml")
    services = compose["services"]
    server = services["mlflow"]
    example = (SERVICES / "env.example").read_text()
    named = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    text = (SERVICES / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) <= named
    needed = set(
        re.findall(r'^: "\$\{(\w+):\?', (SERVICES / "mlflow.sh").read_text(), re.MULTILINE)
    )
    assert needed <= server["environment"].keys()
    addresses = {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_DATABASE_URI"}
    assert {n for n in needed if n not in named} == addresses
    # A file is made of one of them, so none has a password.
    for name in addresses:
        assert server["environment"][name].startswith("postgresql+psycopg2://mlflow@postgres/")
        assert re.search(rf"^# {name}=postgresql\+psycopg2://mlflow@127", example, re.MULTILINE)
    # No password that would do as it stands, and nothing starts without one.
    secrets = {"PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"}
    for name in secrets:
        assert f"\n{name}=\n" in example
        assert f"${{{name}:?" in text
    # Only MLflow is reached from outside, and on loopback unless somebody says otherwise.
    assert "ports" not in services["postgres"]
    assert server["ports"] == ["${MLFLOW_LISTEN:-127.0.0.1}:5000:5000"]
    assert "MLFLOW_LISTEN=127.0.0.1\n" in example
    assert services["postgres"]["volumes"][0].split(":")[0] in compose["volumes"]
    assert (
        (SERVICES / server["build"]["context"] / server["build"]["dockerfile"]).resolve().is_file()
    )
    assert "mlflow_auth" in (SERVICES / "databases.sql").read_text()
    assert "--app-name basic-auth" in (SERVICES / "mlflow.sh").read_text()
    copied = re.search(r"^COPY (.+) /$", (SERVICES / "Dockerfile").read_text(), re.MULTILINE)[1]
    assert all((REPOSITORY / path).is_file() for path in copied.split())


def test_git_ignores_files_with_secrets():
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert {".env", "cluster.env", "role.json", "cluster/services/backup/"} <= set(ignored)


def test_studies_are_no_admins_of_mlflow():
    named = re.compile(r"MLFLOW_TRACKING_USERNAME=(\w+)")
    for path in FILES:
        assert "admin" not in named.findall(path.read_text()), path
        if path.parent != SERVICES:
            assert "MLFLOW_AUTH_ADMIN_PASSWORD" not in path.read_text(), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CLUSTER)))
def test_no_secret_is_in_a_file(path):
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY|\b[0-9a-fA-F]{40,}\b", text)
    for name, value in re.findall(r"(\w*(?:PASSWORD|SECRET|TOKEN)\w*)[=:][ \t]*(\S*)", text):
        assert not value or value.startswith(("$", "...", "?", "{", '"$', "'$")), (
            name,
            value,
        )
    # Addresses of everywhere: of a container, whose port is then on loopback, alone.
    if "0.0.0.0" in text:
        assert path.name == "compose.yaml"


def studies():
    """Every command line of a study in the files, with the file's name."""
    for path in FILES:
        text = re.sub(r"\\\n +|\n# (?=--)", " ", path.read_text())
        for line in re.findall(
            r"(?:study/run\.py|-m study run|slurm\.sh)((?: --?[\w-]+(?:[ =][^\s`'\"]+)?)+)", text
        ):
            yield path, line


def test_every_study_in_the_files_can_be_asked_for():
    found = list(studies())
    assert {path.name for path, _ in found} >= {"gpu.yaml", "kuberay.yaml", "slurm.sh", "README.md"}
    for path, line in found:
        if line == " --help":
            continue
        make_parser().parse_args(shlex.split(line))
        # `ray submit` joins arguments by blanks and leaves the rest to a shell.
        assert not re.search(r"[$*?~|&;<>(){}\[\]]", line), (path, line)


def test_the_readme_leads_to_every_file():
    text = (CLUSTER / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (CLUSTER / target).exists(), target
    for path in FILES:
        name = str(path.relative_to(CLUSTER))
        assert name == "README.md" or path.name in text, name
    for variable in ("FFCAD_STORAGE", "FFCAD_DATA", "MLFLOW_TRACKING_URI"):
        assert variable in text
