# Sourced from the top of the tree: KEY is what signs. Without one a throwaway key is made, which lives in build/ and
# nowhere else.
if [ -z "${KEY:-}" ]; then
  GNUPGHOME=$PWD/build/throwaway-key
  export GNUPGHOME
  # gpg starts an agent for it, which nobody else will end.
  trap 'gpgconf --kill gpg-agent' EXIT
  install -d -m 700 "$GNUPGHOME"
  gpg --batch --list-secret-keys throwaway >/dev/null 2>&1 ||
    gpg --batch --quiet --passphrase '' --quick-gen-key 'exo-rkllm throwaway key' ed25519 sign 30d
  KEY=throwaway
fi
