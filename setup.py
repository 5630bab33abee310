"""What setup.cfg cannot say: beside the packages that are found, saved_models/ is installed as tfseg/saved_models/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tfseg*"]), "tfseg.saved_models"],
    package_dir={"tfseg.saved_models": "saved_models"},
    package_data={"tfseg.saved_models": ["*/*"]},
)
