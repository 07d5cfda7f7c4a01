# Debian's packages without installing them: shared by the scripts beside it; sourced, not run.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror that this machine uses, if it is Debian's.
mirror=$(sed -n 's,^\(deb\|URIs:\) *\(\[[^]]*\] *\)\?\([a-z+]*://[^ ]*/debian\)/\?\( .*\)\?$,\3,p' \
	/etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1 || true)
mirror=${PROTOCG_DEBIAN_MIRROR:-${mirror:-http://deb.debian.org/debian}}

# Lets apt know one suite, in a directory of its own: this machine's sources are read, for the mirror, and never changed.
# usage: apt_for SUITE FOLDER
apt_for() {
	local suite=$1 at=$2/apt-$1 from=$mirror
	[[ -e $keyring ]] || fail "Debian's keys are missing; on Debian and Ubuntu: apt-get install debian-archive-keyring"
	[[ $suite != *-security ]] || from=$mirror-security
	mkdir -p "$at/lists/partial" "$at/cache/archives/partial" "$at/sources.d"
	printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' "$keyring" "$from" "$suite" >"$at/sources.list"
	: >"$at/status"
	cat >"$at/apt.conf" <<-EOF
		Dir::State "$at";
		Dir::State::status "$at/status";
		Dir::Cache "$at/cache";
		Dir::Etc::sourcelist "$at/sources.list";
		Dir::Etc::sourceparts "$at/sources.d";
		Dir::Etc::preferencesparts "$at/sources.d";
		APT::Architecture "amd64";
		APT::Sandbox::User "";
		Acquire::Languages "none";
	EOF
	export APT_CONFIG=$at/apt.conf
	# A suite that is out of support has dates of the past.
	apt-get update -qq -o Acquire::Check-Valid-Until=false
}

# Downloads packages of that suite and unpacks them. usage: unpack FOLDER PACKAGE...
unpack() {
	local folder=$1 package
	shift
	mkdir -p "$folder"
	(cd "$folder" && apt-get download -qq "$@")
	for package in "$folder"/*.deb; do
		dpkg-deb -x "$package" "$folder/tree"
		rm "$package"
	done
}
