"""The login: one page that needs nothing else, no script library and no other file."""

from __future__ import annotations

import html
from typing import Final


def login_page(federation: str, *, refused: bool = False) -> str:
    """The page.  A token behind ``#`` in its address is taken from there: what stands there is never sent."""
    said = '<p class="no" role="alert">That is not the token.</p>' if refused else ""
    return _LOGIN.replace("@federation@", html.escape(federation)).replace("@said@", said)


_LOGIN: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<title>Commonroot · log in</title>
<style>
:root { --ink: #1d2733; --soft: #5c6b7a; --line: #d9e0e7; --page: #f5f7f9; --card: #fff;
        --root: #2f6f5e; --no: #a8322a }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4eaf0; --soft: #97a5b3; --line: #2c3843; --page: #12181e; --card: #1a222a;
          --root: #63b39d; --no: #ef8b82 }
}
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem; background: var(--page);
       color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
form { width: 100%; max-width: 25rem; padding: 2rem; background: var(--card); border: 1px solid var(--line);
       border-radius: 12px }
h1 { margin: 0; font-size: 1.35rem; font-weight: 650 } h1 + p { margin: .1rem 0 1.5rem; color: var(--soft) }
label { display: block; margin-bottom: .35rem; font-size: .9rem; font-weight: 600 }
input { width: 100%; padding: .6rem .75rem; font: inherit; color: inherit; background: var(--page);
        border: 1px solid var(--line); border-radius: 8px }
input:focus-visible, button:focus-visible { outline: 2px solid var(--root); outline-offset: 2px }
button { width: 100%; margin-top: 1rem; padding: .65rem; font: inherit; font-weight: 600; color: #fff;
         background: #2f6f5e; border: 0; border-radius: 8px; cursor: pointer }
small { display: block; margin-top: 1.25rem; color: var(--soft) } .no { color: var(--no); margin: .75rem 0 0 }
code { font-size: .95em }
</style></head><body>
<form method="post" action="/login" id="login">
<h1>Commonroot</h1><p>Federation @federation@</p>
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
@said@
<button type="submit">Look</button>
<small><code>commonroot coordinator page DIR</code> prints an address that logs in by itself.</small>
</form>
<script>
if (location.hash.length > 1) {
  document.getElementById("token").value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", "/login");
  document.getElementById("login").submit();
}
</script>
</body></html>
"""
