// What all live views have in common. Texts go into the page as text, never as HTML.

// Milliseconds; the kernel says every five seconds that it is there.
const SILENCE = 15000;

/** How long ago something was, in one unit; "" if that is not known. */
export function age(time, now) {
  if (time === null || time === undefined) return "";
  const seconds = Math.max(0, Math.floor((now - time) / 1000));
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size).toLocaleString("en")} ${unit}`;
  }
  return `${seconds} s`;
}

/** A lag in milliseconds, in words. */
export function lagged(lag) {
  if (lag === null || lag === undefined) return "";
  if (lag < 1000) return `lag ${Math.round(lag)} ms`;
  return `lag ${(lag / 1000).toFixed(1)} s`;
}

/** An element with a class, a text and children. */
export function element(name, kind = "", text = "", ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/** Set a text if it is another one: what stays is not drawn anew. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A line with a coloured badge for the status, and words beside it. */
export function standing() {
  const badge = element("span", "ds-badge");
  const words = element("span", "ds-dim");
  const line = element("div", "ds-standing", "", badge, words);
  const show = (message, ...more) => {
    setText(badge, message.state);
    badge.style.background = message.colour;
    setText(words, [...more, lagged(message.lag), message.words].filter(Boolean).join(" · "));
  };
  return { line, show };
}

/** Why what is shown is not live, from how long ago the kernel was heard; "" if it is. */
export function silence(heard, now) {
  if (now - heard < SILENCE) return "";
  return `not live: nothing heard from the kernel for ${age(heard, now)}`;
}

/**
 * Say that a page is here, until it is gone, and hand over what comes.
 *
 * @returns what asks the kernel for something else, and what says that the page is gone.
 */
export function connect(model, element, take) {
  let heard = Date.now();
  let over = "";
  const mark = () => {
    const words = over || silence(heard, Date.now());
    if (words) element.dataset.over = words;
    else delete element.dataset.over;
  };
  const say = (message) => {
    try {
      model.send(message);
    } catch {
      over = "not live: the kernel is gone";
      mark();
    }
  };
  const receive = (message) => {
    // Also "alive", which says nothing else: the kernel is there, and has no news.
    heard = Date.now();
    over = message.kind === "over" ? "not live: closed" : "";
    mark();
    if (message.kind === "who") say({ kind: "here" });
    else if (message.kind === "trouble") element.dataset.trouble = message.text;
    else if (message.kind === "show") {
      delete element.dataset.trouble;
      take(message);
    }
  };
  const gone = () => say({ kind: "gone" });
  model.on("msg:custom", receive);
  window.addEventListener("pagehide", gone);
  say({ kind: "here" });
  const quiet = everySecond(mark);
  return {
    ask: (what) => say({ kind: "ask", ...what }),
    leave: () => {
      quiet();
      model.off("msg:custom", receive);
      window.removeEventListener("pagehide", gone);
      gone();
    },
  };
}

/** Call something every second, until the function that is returned is called. */
export function everySecond(call) {
  const timer = setInterval(call, 1000);
  return () => clearInterval(timer);
}
