// Searches while you type, takes dropped and pasted pictures, and moves with the arrow keys.
"use strict";
const at = (id) => document.getElementById(id);
const form = at("ask"), text = at("text"), file = at("file");
let waiting, current;

function say(message) { at("message").textContent = message; }

async function show(url) {
  current?.abort();
  const mine = current = new AbortController();
  document.body.classList.add("busy");
  try {
    const answer = await fetch(url, { signal: mine.signal });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!page.getElementById("results")) throw new Error(`the server answered ${answer.status}`);
    at("results").replaceWith(page.getElementById("results"));
    say(page.getElementById("message").textContent);
    history.replaceState(null, "", url);
  } catch (error) {
    if (error.name === "AbortError") return;
    say(`No answer: ${error.message}. Is \`jest serve\` still running?`);
  }
  document.body.classList.remove("busy");
}

function address() {
  const words = new URLSearchParams(new FormData(form));
  for (const name of ["text", "index"]) if (!words.get(name)) words.delete(name);
  return words.has("text") ? `/?${words}` : "/";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(waiting);
  show(address());
});
text.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => show(address()), 250);
});
at("index")?.addEventListener("change", () => text.value.trim() && show(address()));

async function send(picture) {
  if (!picture) return;
  say("");
  document.body.classList.add("busy");
  const data = new FormData();
  data.append("picture", picture);
  try {
    const answer = await fetch("/embed", { method: "POST", body: data });
    const found = await answer.json();
    if (found.error) throw new Error(found.error);
    await remember(picture);
    const index = at("index")?.value;
    location.href = found.url + (index ? `&index=${encodeURIComponent(index)}` : "");
  } catch (error) {
    say(error.message);
    document.body.classList.remove("busy");
  }
}

// The server keeps no picture: this browser does, small, to show it beside the answer.
async function remember(picture) {
  try {
    const pixels = await createImageBitmap(picture), canvas = document.createElement("canvas");
    const scale = Math.min(1, 300 / Math.max(pixels.width, pixels.height));
    [canvas.width, canvas.height] = [pixels.width * scale, pixels.height * scale];
    canvas.getContext("2d").drawImage(pixels, 0, 0, canvas.width, canvas.height);
    sessionStorage.setItem("mine", canvas.toDataURL());
  } catch { sessionStorage.removeItem("mine"); }
}
if (at("mine") && sessionStorage.getItem("mine")) {
  at("mine").src = sessionStorage.getItem("mine");
  at("mine").hidden = false;
}

file.addEventListener("change", () => send(file.files[0]));
document.addEventListener("paste", (event) => send(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("drop");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("drop");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("drop");
  send(event.dataTransfer.files[0]);
});

document.addEventListener("keydown", (event) => {
  const focused = document.activeElement, tiles = [...document.querySelectorAll(".tile")];
  const place = tiles.indexOf(focused);
  if (event.key === "/" && focused !== text) {
    event.preventDefault();
    text.focus();
  } else if (event.key === "Enter" && focused.classList.contains("button")) {
    file.click();
  } else if (event.key === "ArrowDown" && focused === text && tiles.length) {
    event.preventDefault();
    tiles[0].focus();
  } else if (place >= 0 && event.key.startsWith("Arrow")) {
    event.preventDefault();
    const above = (a, b) => a.offsetTop === b.offsetTop;
    const columns = tiles.filter((tile) => above(tile, tiles[0])).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const next = place + step[event.key];
    if (next < 0) text.focus(); else tiles[next]?.focus();
  }
});
