// A take's files: fetched here, so that what the server refuses is said on the page.

export async function saving(desk, file) {
  const { session, take_id, saving: busy } = desk.state;
  if (busy) return;
  desk.clear("save");
  desk.set({ saving: file });
  try {
    const answer = await fetch(`v1/sessions/${session.session_id}/takes/${take_id}/${file}`);
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      throw new Error(told.error?.message ?? `The server answered ${answer.status}.`);
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${take_id}-${file}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    desk.set({ panel: null, said: `${file} is saved.` });
  } catch (error) {
    desk.fail("save", { message: `${file}: ${error.message}` });
  } finally {
    desk.set({ saving: null });
  }
}
