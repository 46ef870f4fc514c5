#!/bin/sh
# Debian's own start script writes to log files and keeps a shell in front of the server. Here the server is the
# container's first process: its log is the container's, and a stop signal reaches it.
set -eu
if [ "$1" = rabbitmq-server ] && [ "$(id -u)" = 0 ]; then
    shift
    find /var/lib/rabbitmq ! -user rabbitmq -exec chown rabbitmq:rabbitmq {} +
    export HOME=/var/lib/rabbitmq
    cd "$HOME"
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server "$@"
fi
exec "$@"
