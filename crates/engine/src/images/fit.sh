#!/bin/sh
# Makes an image of a registry one that boxes can start from: who works in it, where, and a shell. Whatever is there already stays. Only
# what a shell brings by itself is used, and mkdir, chmod, chown, mv, rm and ln.
set -eu
umask 022
cd /

# /etc/passwd and the like, each line through `keep`, which prints it or does not.
rewrite() {
  file=$1
  : > "$file.boxyard"
  if [ -e "$file" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
      keep "$line" >> "$file.boxyard"
    done < "$file"
  fi
}

# The first name of id 1000 is boxuser: an image's own user of that id is the same one under another name.
[ -e /etc/passwd ] || echo 'root:x:0:0:root:/root:/bin/sh' > /etc/passwd
[ -e /etc/group ] || echo 'root:x:0:' > /etc/group
ours='boxuser:x:1000:1000::/home/boxuser:/bin/bash'
keep() {
  case $1 in
    boxuser:*) ;;
    *:*:1000:*)
      if [ -n "$ours" ]; then printf '%s\n' "$ours"; fi
      ours=
      printf '%s\n' "$1" ;;
    *) printf '%s\n' "$1" ;;
  esac
}
rewrite /etc/passwd
if [ -n "$ours" ]; then printf '%s\n' "$ours" >> /etc/passwd.boxyard; fi
mv -f /etc/passwd.boxyard /etc/passwd
ours='boxuser:x:1000:'
rewrite /etc/group
if [ -n "$ours" ]; then printf '%s\n' "$ours" >> /etc/group.boxyard; fi
mv -f /etc/group.boxyard /etc/group
# Nobody logs in with a password.
if [ -e /etc/shadow ]; then
  keep() {
    case $1 in
      boxuser:*) ;;
      *) printf '%s\n' "$1" ;;
    esac
  }
  umask 077
  rewrite /etc/shadow
  echo 'boxuser:!:20000:0:99999:7:::' >> /etc/shadow.boxyard
  # Into the file that is there, whose owner and mode stay.
  while IFS= read -r line; do printf '%s\n' "$line"; done < /etc/shadow.boxyard > /etc/shadow
  rm -f /etc/shadow.boxyard
  umask 022
fi

# For the sudo that is there, or is installed later.
mkdir -p /etc/sudoers.d
printf '%s\n' \
  'boxuser ALL=(ALL:ALL) NOPASSWD: ALL' \
  'Defaults env_keep += "NODE_EXTRA_CA_CERTS SSL_CERT_FILE REQUESTS_CA_BUNDLE PIP_CERT CURL_CA_BUNDLE GIT_SSL_CAINFO"' \
  'Defaults env_keep += "DEBIAN_FRONTEND PIP_BREAK_SYSTEM_PACKAGES PIP_DISABLE_PIP_VERSION_CHECK PIP_ROOT_USER_ACTION"' \
  'Defaults !fqdn' > /etc/sudoers.d/boxuser
chmod 440 /etc/sudoers.d/boxuser

mkdir -p /root /tmp /var/tmp /home/boxuser /workspace/home
chmod 1777 /tmp /var/tmp
chmod 711 /workspace
chmod 755 /workspace/home
chmod 700 /home/boxuser
chown 0:0 /workspace
chown 1000:1000 /home/boxuser /workspace/home

# Everything is run by way of /bin/bash. A link would not do: busybox goes by the name that it is called by. Scripts that need more than
# what this shell can still need a real bash.
if [ ! -e /bin/bash ]; then
  rm -f /bin/bash
  bash=$(command -v bash || true)
  if [ -n "$bash" ]; then
    ln -s "$bash" /bin/bash
  else
    printf '%s\n' '#!/bin/sh' '# Stands in for bash.' 'exec /bin/sh "$@"' > /bin/bash
    chmod 755 /bin/bash
  fi
fi
