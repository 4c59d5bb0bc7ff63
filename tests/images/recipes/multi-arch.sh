# shellcheck shell=bash
# One name for several platforms. See multi-arch.py.
recipe() {
	"$PYTHON" -B "$HERE/multi-arch.py" "$DIR/busybox" "$OUT"
}
