"""What pyproject.toml cannot say: a wheel carries the folder ``workflow`` inside the package, where `pel_core.common.shipped`
finds it. A checkout, and an editable installation of one, keep it beside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WITHOUT = ("__pycache__", "containers")  # container definitions copy a checkout


class BuildWithWorkflow(build_py):
    """Modules and package data as ever, and the workflow."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "pel_core" / "workflow"
            shutil.rmtree(target, ignore_errors=True)  # an earlier build may have left more
            shutil.copytree("workflow", target, ignore=shutil.ignore_patterns(*WITHOUT))


setup(cmdclass={"build_py": BuildWithWorkflow})
