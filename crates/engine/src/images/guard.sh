# Runs "$@" as the first process of a PID namespace and ends, and with it the whole namespace, when standard input ends: a builder does
# not outlive the server that started it, however that died.
umask 022
exec 3<&0 </dev/null
trap 'exit 143' TERM
"$@" 3<&- &
work=$!
{ read -r _ <&3; kill -TERM $$; } >/dev/null 2>&1 &
wait "$work"
