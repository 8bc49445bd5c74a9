#!/usr/bin/env bash
# Runs a command with one of Intel's OpenCL runtimes, from their Python packages; --help says how.
#
# Two more OpenCL devices for a machine that has none of its own: the runtime for processors, which
# runs on those of other makers, too, and the emulator of FPGAs, an accelerator to its callers.
# They are under Intel's own licence (the End User License Agreement for Developer Tools): this is
# for who asks for it, and nothing else in Hetra needs it.

set -euo pipefail

# All that pip would choose by itself is pinned, too: the same runtimes everywhere.
CPU_PACKAGES=(
    intel-opencl-rt==2026.2.0 intel-cmplr-lib-rt==2026.2.0
    intel-cmplr-lic-rt==2026.2.0 tbb==2023.2.0 tcmlib==1.6.0
)
# The emulator's last release; it wants the processors' runtime of its own version.
FPGA_PACKAGES=(
    intel-opencl-fpga-emu-rt==2025.0.5 intel-opencl-rt==2025.0.5 intel-cmplr-lib-rt==2025.0.5
    intel-cmplr-lic-rt==2025.3.3 tbb==2022.3.1 tcmlib==1.6.0
)

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
folder=$here/../.cache/intel-opencl

usage() {
    cat <<'TEXT'
Runs a command with one of Intel's OpenCL runtimes as its only OpenCL platform.

    tools/intel-opencl.sh [--dir FOLDER] cpu|fpga [--] COMMAND [ARGUMENT ..]

    cpu    the runtime for processors (also those of other makers)
    fpga   the emulator of FPGAs, an OpenCL device of the kind ACCELERATOR

The first call makes a Python environment in FOLDER (.cache/intel-opencl in the checkout) with pip,
about 1 GB for each runtime; later calls find it. Without a command it says what it would set.
Needed: Linux on x86-64, python3 with venv, and the system's OpenCL loader (in Debian,
ocl-icd-libopencl1). The packages are under Intel's End User License
Agreement for Developer Tools.

    tools/intel-opencl.sh cpu -- target/release/hetra devices
    tools/intel-opencl.sh fpga -- cargo test -p hetra-device-opencl
TEXT
}

# A wrong call is 2, as of the commands of Hetra; what fails is 1.
misused() {
    echo "intel-opencl: $1; --help says more" >&2
    exit 2
}

failed() {
    echo "intel-opencl: $1" >&2
    exit 1
}

# The loader that the system has: under the one that the packages bring no platform is found.
system_loader() {
    local name path
    while read -r name path; do
        if [[ $name == libOpenCL.so.1 && -e $path ]]; then
            echo "$path"
            return
        fi
    done < <(PATH=$PATH:/sbin:/usr/sbin ldconfig -p \
        | sed -n 's/^\s*\(\S*\) (.*x86-64.*) => \(.*\)$/\1 \2/p')
    failed "the system has no libOpenCL.so.1: install an OpenCL loader (Debian: ocl-icd-libopencl1)"
}

# Makes the environment of a runtime, unless it is there with these packages.
# $1: its folder, $2: the library that is its platform, $3 ..: packages
make_environment() {
    local place=$1 library=$2
    shift 2
    local wanted="$*"
    if [[ -f $place/made && $(<"$place/made") == "$wanted" ]]; then
        return
    fi
    # A folder of the caller's own may have this name.
    if [[ -e $place && ! -e $place/of-intel-opencl ]]; then
        failed "$place is there and not of this script"
    fi
    echo "intel-opencl: making an environment in $place with $wanted" >&2
    rm -rf -- "$place"
    mkdir -- "$place"
    touch -- "$place/of-intel-opencl"
    python3 -m venv -- "$place" || failed "python3 makes no environment (Debian: python3-venv)"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$@" >&2 \
        || failed "pip could not install the packages"
    [[ -e $place/lib/$library ]] || failed "the packages brought no $library"
    mkdir -- "$place/vendors" "$place/loader"
    echo "$place/lib/$library" >"$place/vendors/intel.icd"
    # Last, so that what was cut off is made anew.
    echo "$wanted" >"$place/made"
}

while [[ ${1-} == -* ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --dir)
            [[ -n ${2-} ]] || misused "--dir wants a folder"
            folder=$2
            shift 2
            ;;
        *) misused "no option $1" ;;
    esac
done

case ${1-} in
    cpu) library=libintelocl.so packages=("${CPU_PACKAGES[@]}") ;;
    fpga) library=libintelocl_emu.so packages=("${FPGA_PACKAGES[@]}") ;;
    '') misused "wanted cpu or fpga" ;;
    *) misused "no runtime $1: there are cpu and fpga" ;;
esac
runtime=$1
shift
[[ ${1-} == -- ]] && shift

[[ $(uname -sm) == "Linux x86_64" ]] || failed "the packages are for Linux on x86-64"
loader=$(system_loader)
mkdir -p -- "$folder"
folder=$(cd -- "$folder" && pwd)
place=$folder/$runtime

# Two calls at one time must not make it twice. The command does not inherit the lock.
(
    flock 9
    make_environment "$place" "$library" "${packages[@]}"
    ln -sfn -- "$loader" "$place/loader/libOpenCL.so.1"
    ln -sfn -- "$loader" "$place/loader/libOpenCL.so"
) 9>"$folder/$runtime.lock"

# The folder of the loader comes first, see above; the rest are the libraries of the runtime.
export OCL_ICD_VENDORS=$place/vendors/
export LD_LIBRARY_PATH=$place/loader:$place/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

if (($# == 0)); then
    printf 'export OCL_ICD_VENDORS=%q\n' "$OCL_ICD_VENDORS"
    printf 'export LD_LIBRARY_PATH=%q\n' "$LD_LIBRARY_PATH"
    exit 0
fi
exec "$@"
