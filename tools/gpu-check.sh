#!/usr/bin/env bash
# What docs/GPU.md shows, on this machine: which devices there are, whether models give their
# recorded outputs by kernels alone, and how long they take.
#
#   tools/gpu-check.sh [-d wgpu,opencl] [-n NODE_SUITE] MODEL.onnx[=DATA_FOLDER]..
#
# HETRA is the program, `hetra` where it is not set.
set -uo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }

hetra=${HETRA:-hetra} devices=wgpu,opencl suite=
while getopts d:n:h option; do
    case $option in
        d) devices=$OPTARG ;;
        n) suite=$OPTARG ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || [ -n "$suite" ] || usage

failed=0
"$hetra" devices
for device in ${devices//,/ }; do
    if [ -n "$suite" ]; then
        echo "== node suite on $device"
        "$hetra" conformance "$suite" -d "$device" | tail -n 1
    fi
    for model in "$@"; do
        file=${model%%=*} data=
        [ "$model" = "$file" ] || data=${model#*=}
        echo "== $file on $device"
        if [ -n "$data" ]; then
            "$hetra" compare "$file" --data "$data" -d "$device" --no-fallback \
                --rtol 1e-3 --atol 1e-3 || failed=1
        fi
        "$hetra" bench "$file" -d "$device" -t 1 --profile || failed=1
    done
done
exit $failed
