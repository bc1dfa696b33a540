# Refuses a version that cannot read the store, and makes the user.
format_known=3
store=$(sed -n '/^\[store\]/,/^\[/s/^[[:space:]]*path[[:space:]]*=[[:space:]]*"\(.*\)".*/\1/p' \
    /etc/holdline/holdline.toml 2>/dev/null | head -n 1)
store=${store:-/var/lib/holdline}
found=$(cat "$store/format" 2>/dev/null || :)
case "$found" in
    '' | *[!0-9]*) ;;
    *)
        if [ "$found" -gt "$format_known" ]; then
            echo "holdline: $store was written by a newer holdline (format $found, this version knows up to" \
                "$format_known). Nothing is installed; keep the newer version, or move $store away first." >&2
            exit 1
        fi
        ;;
esac
getent group holdline >/dev/null || groupadd --system holdline
getent passwd holdline >/dev/null || useradd --system --gid holdline --home-dir /var/lib/holdline --no-create-home \
    --shell /sbin/nologin --comment "holdline event gateway" holdline
exit 0
