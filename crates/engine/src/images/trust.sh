#!/bin/sh
# Has programs trust the authorities that lie in /usr/local/share/ca-certificates, also where no program is there for that yet: the one that
# is installed later finds them.
set -eu
umask 022
if command -v update-ca-certificates > /dev/null; then
  exec update-ca-certificates
fi
bundle=/etc/ssl/certs/ca-certificates.crt
mkdir -p /etc/ssl/certs
if [ ! -e "$bundle" ]; then
  rm -f "$bundle"
  : > "$bundle"
  for other in /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
    if [ -e "$other" ]; then
      cat "$other" > "$bundle"
      break
    fi
  done
fi
for certificate in /usr/local/share/ca-certificates/host-*.crt; do
  cat "$certificate" >> "$bundle"
done
