if command -v apk > /dev/null; then
  # What stands in for bash must not be in the way of the real one.
  if grep -q '^# Stands in for bash' /bin/bash; then mv /bin/bash /bin/bash.boxyard; fi
  apk add --no-cache "$@"
  if [ -e /bin/bash ]; then rm -f /bin/bash.boxyard; else mv /bin/bash.boxyard /bin/bash; fi
elif command -v apt-get > /dev/null; then
  apt-get update
  apt-get install --yes --no-install-recommends -- "$@"
  apt-get clean
elif command -v dnf > /dev/null; then
  dnf install --assumeyes --setopt=install_weak_deps=False -- "$@"
  dnf clean all
elif command -v microdnf > /dev/null; then
  microdnf install --assumeyes --setopt=install_weak_deps=0 "$@"
  microdnf clean all
elif command -v zypper > /dev/null; then
  zypper --non-interactive install --no-recommends -- "$@"
  zypper clean --all
else
  echo 'the image has no program that installs packages: apk, apt-get, dnf, microdnf or zypper' >&2
  exit 1
fi
