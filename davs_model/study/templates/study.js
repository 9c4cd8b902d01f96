"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
$("data").remove();
const films = new Map(data.films.map((film) => [film.id, film]));
const KEY = `study-${data.study}`;
const video = $("film"), form = $("trial");
const QUESTIONS = ["realistic", "same_person", "in_sync"];
let state = recalled() ?? fresh();
let film = null, answer = null;  // the film on show and what is said of it
let since = 0;  // when `answer.seconds` was last brought up to date

for (let percent = 0; percent <= 100; percent += 10) {
  const label = document.createElement("label"), input = document.createElement("input");
  const text = document.createElement("span");
  Object.assign(input, { type: "radio", name: "in_sync", value: percent });
  input.setAttribute("aria-label", `${percent} percent`);
  text.textContent = percent;
  label.append(input, text);
  $("sync").append(label);
}

// Who takes part, in which order they see the films (`order`, of film ids), where they are (`at`: -1 before the first
// film, the number of films after the last) and what they have said (`answers`, by film id).
function fresh() {
  const order = [...films.keys()];
  for (let last = order.length - 1; last > 0; last--) {
    const other = crypto.getRandomValues(new Uint32Array(1))[0] % (last + 1);
    [order[last], order[other]] = [order[other], order[last]];
  }
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { participant: `p${hex}`, order, at: -1, answers: {}, saved: false };
}

function recalled() {
  try {
    const old = JSON.parse(localStorage.getItem(KEY));
    const whole = old.order.length === films.size && new Set(old.order).size === films.size;
    return whole && old.order.every((id) => films.has(id)) && Number.isInteger(old.at) && old.answers ? old : null;
  } catch {
    return null;  // nothing there, or a browser that keeps nothing of file:// pages
  }
}

function keep() {
  const now = performance.now();
  if (answer) answer.seconds += Math.max(0, now - since) / 1000;
  since = Math.max(since, now);
  try {
    localStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    $("forgetful").hidden = false;
  }
}

const asked = () => QUESTIONS.filter((name) => name !== "same_person" || film.face !== null);
const complete = () => answer.skipped || asked().every((name) => name in answer);

function show(at) {
  keep();
  state.at = at;
  film = films.get(state.order[at]) ?? null;
  answer = film && (state.answers[film.id] ??= { seconds: 0, played: false, skipped: false });
  keep();
  $("intro").hidden = at >= 0;
  form.hidden = !film;
  $("end").hidden = at < films.size;
  if (film) {
    $("place").textContent = `Video ${at + 1} of ${films.size}`;
    Object.assign($("bar"), { max: films.size, value: at });
    $("back").disabled = at === 0;
    $("next").textContent = at + 1 === films.size ? "Finish" : "Next";
    $("broken").hidden = true;
    $("play").hidden = false;
    $("play").textContent = "Play";
    $("person").hidden = film.face === null;
    if (film.face !== null) $("photo").src = data.faces[film.face];
    for (const input of $("questions").querySelectorAll("input")) input.checked = answer[input.name] === input.value;
    video.src = `data:video/mp4;base64,${film.film}`;
    refresh();
  } else {
    video.removeAttribute("src");
    video.load();
  }
  const lost = Object.values(state.answers).filter((one) => one.skipped).length;
  $("skipped").textContent = lost ? `Skipped because this browser cannot play them: ${lost} of ${films.size} videos.` : "";
  $("name").textContent = `${KEY}-${state.participant}.csv`;
  $("saved").textContent = "";
  $("other").hidden = !state.saved;
  $("count").textContent = films.size === 1 ? "one short video" : `${films.size} short videos`;
  window.scrollTo(0, 0);
  (film ? $("play") : document.querySelector("section:not([hidden]) h2")).focus();
}

function refresh() {
  $("questions").disabled = !answer.played;
  $("play").classList.toggle("main", !answer.played);
  $("next").disabled = !complete();
  const todo = answer.played ? "Answer all questions to go on." : "Play the video to its end, then answer.";
  $("hint").textContent = complete() || !$("broken").hidden ? "" : todo;
}

function ended() {
  Object.assign(answer, { played: true, skipped: false });
  $("play").textContent = "Play again";
  keep();
  refresh();
}

function fail() {
  if (!film) return;
  video.pause();
  $("broken").hidden = false;
  $("play").hidden = true;
  refresh();
}

function csv() {
  const text = (coded) => new TextDecoder().decode(Uint8Array.from(atob(coded), (char) => char.charCodeAt(0)));
  const quoted = (words) => `"${words.replaceAll('"', '""')}"`;
  // A spreadsheet takes what begins with = + - @ for a formula; whoever reads this back drops a leading apostrophe.
  const safe = (words) => quoted(/^[=+\-@']/.test(words) ? `'${words}` : words);
  const rows = state.order.map((id, n) => {
    const { method, label } = films.get(id), said = state.answers[id];
    const answers = QUESTIONS.map((name) => said[name] ?? "");
    const names = [safe(text(method)), safe(text(label))];
    return [data.study, state.participant, n + 1, id, ...names, ...answers, said.seconds.toFixed(1)];
  });
  return [data.columns, ...rows].map((row) => `${row.join(",")}\r\n`).join("");
}

$("begin").addEventListener("click", () => show(0));
$("back").addEventListener("click", () => show(state.at - 1));
$("again").addEventListener("click", () => show(films.size - 1));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (complete()) show(state.at + 1);
});
$("questions").addEventListener("change", (event) => {
  answer[event.target.name] = event.target.value;
  state.saved = false;
  keep();
  refresh();
});
for (const clicked of [video, $("play")]) {
  clicked.addEventListener("click", () => (video.paused ? video.play().catch(() => {}) : video.pause()));
}
video.addEventListener("play", () => ($("play").textContent = "Pause"));
video.addEventListener("pause", () => ($("play").textContent = "Play"));
video.addEventListener("ended", ended);
video.addEventListener("error", fail);
// Where a browser knows the sound but not the picture, it plays the sound alone.
video.addEventListener("loadedmetadata", () => video.videoWidth || fail());
$("skip").addEventListener("click", () => {
  for (const name of QUESTIONS) delete answer[name];
  Object.assign(answer, { played: false, skipped: true });
  state.saved = false;
  show(state.at + 1);
});
$("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = $("name").textContent;
  link.click();
  state.saved = true;
  keep();
  $("saved").textContent = "Saved, where this browser puts downloads.";
  $("other").hidden = false;
});
$("other").addEventListener("click", () => {
  answer = null;
  state = fresh();
  show(-1);
});
addEventListener("visibilitychange", () => {  // time in another tab is not time spent on a film
  if (document.hidden) {
    keep();
    since = Infinity;  // until the page is seen again
  } else since = performance.now();
});
addEventListener("pagehide", keep);
addEventListener("beforeunload", (event) => {
  if (!$("forgetful").hidden && state.at >= 0 && !state.saved) event.preventDefault();
});
since = performance.now();
show(Math.min(Math.max(state.at, -1), films.size));
