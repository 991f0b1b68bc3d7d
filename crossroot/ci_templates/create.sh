if [ -e "crossroot-$PROFILE.lock" ]; then
  crossroot create --force --locked "crossroot-$PROFILE.lock" --name "$PROFILE"
else
  crossroot create --force "$PROFILE"@PACKAGES@
fi
