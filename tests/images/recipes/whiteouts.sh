# shellcheck shell=bash
# Everything that a layer may hold and tools get wrong. See whiteouts.py.
recipe() {
	"$PYTHON" -B "$HERE/whiteouts.py" "$DIR/busybox" "$OUT" "$NAME"
}
