# Stops the service when the package is removed; an upgrade stops nothing.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now holdline.socket holdline.service >/dev/null 2>&1 || :
fi
exit 0
