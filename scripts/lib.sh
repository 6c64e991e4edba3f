# shellcheck shell=bash
# Shared by the scripts of this folder and by .ci/run. Sourced, never run.
#
# Runs on the bash 3.2 that macOS ships: no mapfile, no ${x,,}, and no
# expansion of an array that may be empty.

# A non-root PATH often lacks ldconfig's folder, and a shell that was open
# while Rust was installed lacks cargo's.
PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

# shellcheck disable=SC2034 # used by the scripts
REPO=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
CACHE=${WGPU_ATTENTION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wgpu-attention}

# Messages go to stderr: a script's stdout belongs to the program it runs.
say() { printf '==> %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The first of the paths that exists; false if none does. A pattern without
# a match stays as it is and so does not exist.
first_of() {
    local path
    for path; do
        if [ -e "$path" ]; then
            printf '%s\n' "$path"
            return
        fi
    done
    return 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The comment at the top of a script is its --help.
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$1"; }

is_linux() { [ "$(uname -s)" = Linux ]; }

# True if the ID or ID_LIKE of os-release names one of the arguments.
is_distro() {
    local ids name
    ids=$(. /etc/os-release 2>/dev/null && printf ' %s %s ' "${ID:-}" "${ID_LIKE:-}") || return 1
    for name; do
        case $ids in *" $name"[\ -]*) return 0 ;; esac
    done
    return 1
}

is_debian() { have apt-get && is_distro debian ubuntu; }

# Runs a command as root; false if there is no way to.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif ! have sudo; then
        return 1
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@" # nobody is there to type a password
    fi
}

# Installs Debian packages that are missing. False, after saying what to run,
# if it cannot.
apt_install() {
    local package missing=''
    for package; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
            'install ok installed') ;;
            *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # Exported, so that one update serves every script of a run.
    if [ -z "${WGPU_ATTENTION_APT_UPDATED:-}" ]; then
        as_root apt-get update -q >&2 || warn 'apt-get update failed'
        export WGPU_ATTENTION_APT_UPDATED=1
    fi
    # shellcheck disable=SC2086 # one word per package
    if ! as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $missing >&2; then
        warn "could not install them; as root, run: apt-get install$missing"
        return 1
    fi
}

# Says what to install where this project does not install by itself.
# $1: what is missing. The rest: the packages of Debian, Fedora, Arch,
# openSUSE and Alpine, a word list each.
hint() {
    local what=$1 command
    if is_distro debian ubuntu; then
        command="apt-get install $2"
    elif is_distro fedora rhel; then
        command="dnf install $3"
    elif is_distro arch; then
        command="pacman -S $4"
    elif is_distro suse opensuse; then
        command="zypper install $5"
    elif is_distro alpine; then
        command="apk add $6"
    else
        command="the counterpart of Debian's packages $2"
    fi
    warn "$what not found; install it: $command"
}

# Installs Debian packages, or says what to install. Never ends the script:
# the check may have missed what is there, so the program itself decides.
provide() {
    if is_debian; then
        # shellcheck disable=SC2086 # a word list
        apt_install $2 || true
    else
        hint "$@"
    fi
}

has_library() {
    # Not grep -q: it would close the pipe early, which pipefail reports.
    ldconfig -p 2>/dev/null | grep -F "$1 " >/dev/null ||
        first_of /usr/lib/"$1" /usr/lib64/"$1" /usr/lib/*/"$1" >/dev/null
}

has_gpu() { first_of /dev/dri/renderD* /dev/nvidia[0-9]* /dev/dxg >/dev/null; }

# $1: beginning of the name of a Vulkan driver's manifest.
has_vulkan_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] ||
        first_of {/usr/share,/usr/local/share,/etc}/vulkan/icd.d/"$1"*.json >/dev/null
}

# cargo, and the linker that it calls.
need_rust() {
    have cargo || die 'cargo not found; install Rust from https://rustup.rs and try again'
    case $(uname -s) in
        Linux)
            have cc || provide 'a linker (cc)' 'gcc libc6-dev' gcc 'base-devel' gcc 'gcc musl-dev'
            ;;
        Darwin)
            xcode-select -p >/dev/null 2>&1 ||
                warn 'no linker found; install it: xcode-select --install'
            ;;
        *) ;; # On Windows the installer of Rust sees to it.
    esac
}

# Python with pip.
need_python() {
    python3 -m pip --version >/dev/null 2>&1 ||
        provide 'Python with pip' 'python3 python3-pip' python3-pip python-pip python3-pip py3-pip
}

# A Vulkan adapter. A machine with a GPU keeps the driver it has; one without
# gets Mesa's software driver. macOS has Metal and Windows DirectX 12.
need_vulkan() {
    is_linux || return 0
    has_library libvulkan.so.1 ||
        provide 'the Vulkan loader' libvulkan1 vulkan-loader vulkan-icd-loader libvulkan1 vulkan-loader
    local driver=lvp_icd
    if has_gpu; then driver=''; fi
    has_vulkan_driver "$driver" ||
        provide 'a Vulkan driver' mesa-vulkan-drivers mesa-vulkan-drivers vulkan-swrast \
            libvulkan_lvp mesa-vulkan-swrast
}

# An OpenGL ES adapter without a window system, the second driver of the tests.
need_gl() {
    is_linux || return 0
    if is_debian; then
        if has_gpu && has_library libEGL.so.1; then return 0; fi
        apt_install libegl1 libgles2 libgl1-mesa-dri || true
    elif ! has_library libEGL.so.1; then
        hint 'EGL' 'libegl1 libgles2 libgl1-mesa-dri' \
            'mesa-libEGL libglvnd-gles mesa-dri-drivers' 'mesa libglvnd' \
            'Mesa-libEGL1 Mesa-dri' 'mesa-egl mesa-gles mesa-dri-gallium'
    fi
}
