# Starts the service, or starts it again through its socket, where the configuration is usable.
if [ "$1" = 1 ] && command -v systemctl >/dev/null; then
    systemctl --no-reload enable holdline.socket holdline.service >/dev/null 2>&1 || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
    if /usr/bin/holdline check --config /etc/holdline/holdline.toml; then
        if [ "$1" = 1 ]; then
            systemctl start holdline.socket holdline.service || :
        else
            systemctl try-restart holdline.service || :
        fi
    else
        echo "holdline was not started, for its configuration has the faults above; what ran before goes on." \
            "Mend it, then: systemctl restart holdline" >&2
    fi
fi
exit 0
