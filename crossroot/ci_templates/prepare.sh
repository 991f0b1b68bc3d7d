# What the runner may lack.
missing=
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
command -v mmdebstrap >/dev/null || missing="$missing mmdebstrap debian-archive-keyring ubuntu-keyring"
[ "$(id -u)" = 0 ] || command -v newuidmap >/dev/null || missing="$missing uidmap"
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
if [ -n "$missing" ]; then
  $sudo apt-get -q update
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $missing
fi
# An ordinary user needs subordinate ids and, on Ubuntu, leave to make user namespaces.
if [ "$(id -u)" != 0 ]; then
  user=$(id -un)
  grep -q "^$user:" /etc/subuid || sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$user"
  if [ -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns ]; then
    sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
  fi
fi
