"""Build PSR's images: `make images`.

With docker, or with buildah as root, from the Dockerfiles of this folder; each says at its head how to do it by hand.
A build reaches package registries as this machine does: through its certificates and, with buildah, its cache of uv.

    python images/build.py --registry registry.example/team --version 0.1.0
    python images/build.py --environment cpu --base my-base
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
STANDS_ON = {
    "tools": {"BASE"},
    "dependencies": {"BASE", "TOOLS"},
    "operator": {"BASE", "TOOLS"},
    "runtime": {"TOOLS", "DEPENDENCIES"},
    "inference": {"TOOLS", "DEPENDENCIES"},
}
"""Every image, with the arguments that name what it stands on; later ones stand on earlier ones."""
NAMES = tuple(STANDS_ON)
CERTIFICATES = "/etc/ssl/certs"


class BuildError(Exception):
    """An image cannot be built; the message holds the end of the builder's output."""


def builder(*buildah_options: str) -> list[str]:
    """The command that builds, up to the Dockerfile.

    Args:
        buildah_options: global options of buildah, its storage say.

    Raises:
        BuildError: there is neither docker nor buildah.
    """
    buildah = shutil.which("buildah") if os.geteuid() == 0 else None
    if buildah is not None:
        cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
        cache.mkdir(parents=True, exist_ok=True)
        return [
            *(buildah, *buildah_options, "bud", "--isolation=chroot", "--layers"),
            *(f"--volume={cache}:/var/cache/uv:rw", "--build-arg=CACHE=/var/cache/uv"),
            f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",
        ]
    docker = shutil.which("docker")
    if docker is None:
        raise BuildError("neither docker nor, as root, buildah is here; install one of them")
    return [docker, "build"]


def build(name: str, tag: str, arguments: Mapping[str, str], command: list[str]) -> None:
    """Build one image.

    Args:
        name: of `NAMES`.
        arguments: of its Dockerfile.
        command: of `builder`.

    Raises:
        BuildError: the build failed.
    """
    revision = {} if name in ("tools", "dependencies") else {"REVISION": _revision()}
    words = [f"--build-arg={key}={value}" for key, value in {**revision, **arguments}.items()]
    run(*command, *words, "-f", f"images/{name}/Dockerfile", "-t", tag, ".")


def run(*command: str) -> str:
    """Run a command in the project's root; its output.

    Raises:
        BuildError: it failed.
    """
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def _revision() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def tags_of(registry: str, version: str) -> dict[str, str]:
    """The names under which the images are built."""
    return {name: f"{registry}/psr-{name}:{version}" for name in NAMES}


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python images/build.py",
        description=(__doc__ or "").split("\n")[0],
        epilog=(__doc__ or "").split("\n\n")[-1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument(
        "--registry", default="psr", metavar="NAME", help="what stands before /psr-operator (default: psr)"
    )
    arguments.add_argument("--version", default="0.1.0", metavar="TAG", help="default: 0.1.0")
    arguments.add_argument("--base", metavar="IMAGE", help="base image (default: that of the Dockerfiles)")
    arguments.add_argument("--environment", choices=["gpu", "cpu"], default="gpu", help="of the inference image")
    arguments.add_argument("--only", choices=NAMES, help="build only this one")
    return arguments


def main() -> int:
    options = parser().parse_args()
    tags = tags_of(options.registry, options.version)
    try:
        command = builder()
        for name in [options.only] if options.only else NAMES:
            known = {"TOOLS": tags["tools"], "DEPENDENCIES": tags["dependencies"]}
            known |= {"BASE": options.base} if options.base else {}
            arguments = {key: known[key] for key in sorted(STANDS_ON[name] & known.keys())}
            if name == "inference":
                arguments["ENVIRONMENT"] = options.environment
            build(name, tags[name], arguments, command)
            print(tags[name], flush=True)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
