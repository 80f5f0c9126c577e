// The revisions of a key, scrubbed: each with who, why, and what it changed.
import { connect, element, setText, standing } from "./live.js";

/** Where a revision stands among those that are there, the oldest first; the last one if it went. */
export function placeOf(revisions, id) {
  const at = revisions.findIndex((revision) => revision.id === id);
  return at < 0 ? revisions.length - 1 : at;
}

/** The class of a line of a difference. */
export function kindOf(sign) {
  return { "+": "ds-added", "-": "ds-removed", "@": "ds-dim" }[sign] ?? "";
}

function render({ model, el }) {
  const root = element("div", "ds-live ds-timeline");
  const state = standing();
  const bar = element("input", "ds-bar");
  bar.type = "range";
  bar.min = 0;
  bar.setAttribute("aria-label", "revision");
  const back = element("button", "ds-button", "‹");
  const on = element("button", "ds-button", "›");
  back.title = "older";
  on.title = "newer";
  const about = element("div", "ds-about");
  const message = element("div", "ds-message");
  const lines = element("pre", "ds-diff");
  root.append(state.line, element("div", "ds-tools", "", back, bar, on), about, message, lines);
  el.append(root);
  let revisions = [];
  let chosen = null; // The id of a revision; null follows the newest one.

  const place = () => placeOf(revisions, chosen);
  const name = () => {
    const revision = revisions[place()];
    bar.max = Math.max(0, revisions.length - 1);
    bar.value = place();
    back.disabled = place() <= 0;
    on.disabled = place() >= revisions.length - 1;
    if (!revision) return setText(about, "no revisions");
    const when = revision.time ? new Date(revision.time).toLocaleString() : "";
    const where = `${place() + 1} of ${revisions.length}`;
    const parts = [where, when, revision.author, revision.revision];
    setText(about, parts.filter(Boolean).join(" · "));
    setText(message, revision.message);
    return undefined;
  };
  const choose = (at) => {
    const newest = at >= revisions.length - 1;
    chosen = newest ? null : revisions[Math.max(0, at)].id;
    name();
    page.ask({ id: chosen });
  };
  const show = (told) => {
    if (told.revisions) revisions = told.revisions;
    state.show(told, told.remark);
    name();
    // An answer to what was asked before must not be shown under another revision.
    if (revisions[place()]?.id !== told.id) return;
    lines.replaceChildren(
      ...told.diff.map(([sign, text]) => element("div", kindOf(sign), sign + text)),
    );
  };
  bar.oninput = () => choose(Number(bar.value));
  back.onclick = () => choose(place() - 1);
  on.onclick = () => choose(place() + 1);
  const page = connect(model, root, show);
  return () => page.leave();
}

export default { render };
