# shellcheck shell=bash
# Many small layers on busybox; the name has their number. See layers.py.
recipe() {
	"$PYTHON" -B "$HERE/layers.py" "$DIR/busybox" "$OUT" "${NAME#layers}"
}
