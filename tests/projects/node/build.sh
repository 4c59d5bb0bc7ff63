# npm installs a packed dependency, a bundle is written, npm packs it. The project may be read-only.
set -eu
out=${OUT:-/out}
work=${TMPDIR:-/tmp}/work
PROJECT=$(pwd)
export PROJECT

mkdir "$work"
cp -r package.json bundle.js lib vendor "$work"
# Modes of a checkout are the umask's of whoever made it.
chmod -R u=rwX,go=rX "$work"
cd "$work"

npm_config_loglevel=error npm_config_audit=false npm_config_fund=false npm_config_offline=true npm_config_update_notifier=false
export npm_config_loglevel npm_config_audit npm_config_fund npm_config_offline npm_config_update_notifier
npm pack ./vendor/greeting >/dev/null
npm install ./greeting-1.0.0.tgz >/dev/null
rm -r node_modules
npm ci >/dev/null
node bundle.js
npm pack --pack-destination "$out" >/dev/null
cp -r package-lock.json node_modules dist "$out"
