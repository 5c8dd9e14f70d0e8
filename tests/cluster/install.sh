#!/usr/bin/env bash
# SLURM's daemons from Debian's packages, where they are missing and this may install them; else says why not and leaves it.
set -u
PATH=$PATH:/usr/sbin:/sbin
command -v slurmctld > /dev/null && command -v slurmd > /dev/null && command -v sbatch > /dev/null && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "test-cluster: SLURM is not installed, and only root may install it: apt-get install slurm-wlm slurm-client"
elif ! command -v apt-get > /dev/null; then
    echo "test-cluster: SLURM is not installed, and there is no apt-get here to install it with"
else
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends slurm-wlm slurm-client; } > /dev/null ||
        echo "test-cluster: apt-get could not install slurm-wlm and slurm-client"
fi
exit 0 # the tests themselves skip, naming what is missing
